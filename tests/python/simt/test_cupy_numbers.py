"""syncnorm.cupy over simulated devices, equal to the float64 reference, as NumPy's tests show.

Rank i is a thread on device i, and NCCL sums.
"""

from __future__ import annotations

import pytest

from support import adapter_driver, driver
from support.cases import Case, simple_case
from support.compare import check_frozen, check_training
from support.cupy_on_host import ADAPTER
from support.device_cases import CASES
from support.driver import assert_same_bits

pytestmark = pytest.mark.usefixtures("pool")

EACH_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@EACH_CASE
def test_training_over_nccl(case: Case) -> None:
    check_training(case, adapter_driver.run_one_call(ADAPTER, case))


@EACH_CASE
def test_the_phases_have_the_bits_of_the_core_alone(case: Case) -> None:
    expected = driver.run_phases(case, device="cuda")
    assert_same_bits(expected, adapter_driver.run_phases(ADAPTER, case))


def test_a_group_of_one_needs_no_communicator() -> None:
    case = simple_case(batches=(5,), channels=7, layout="last")
    expected = driver.run_one_call(case, alone=True, device="cuda")
    assert_same_bits(expected, adapter_driver.run_one_call(ADAPTER, case, alone=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_running_statistics_in_use(dtype: str) -> None:
    case = simple_case(dtype, batches=(3, 0), residual=True, activation="relu")
    check_frozen(case, adapter_driver.run_frozen(ADAPTER, case))
