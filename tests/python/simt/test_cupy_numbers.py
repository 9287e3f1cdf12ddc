"""syncbn.cupy over simulated devices, equal to the float64 reference: what NumPy's tests show too.

Rank i is a thread on device i, and NCCL sums.
"""

from __future__ import annotations

import pytest

from support import adapter_driver, driver
from support.cases import Case, simple_case
from support.compare import check_frozen, check_training
from support.cupy_on_host import ADAPTER
from support.driver import assert_same_bits

pytestmark = pytest.mark.usefixtures("pool")

CASES = {
    "float32": simple_case(batches=(3, 2), channels=5),
    "float16": simple_case("float16", batches=(3, 2), layout="last", residual=True),
    "bfloat16": simple_case("bfloat16", batches=(2, 3), masked="some", activation="relu"),
    "float64, centred": simple_case("float64", batches=(3, 1), ratio=1e6),
    "a residual and an activation": simple_case(
        batches=(3, 2), layout="last", residual=True, activation="leaky_relu"
    ),
    "equal weights, means of gradients": simple_case(
        batches=(3, 2), weighting="equal", variance_factor="unbiased_rank", grad_reduction="mean"
    ),
    "an empty rank": simple_case(batches=(0, 4), weighting="batch"),
    "no values at all": simple_case(batches=(0, 0), momentum=None),
    "one rank": simple_case(batches=(4,), eps_mode="max", momentum=None),
    "in place": simple_case(batches=(3, 2), activation="elu", in_place=True),
    "sums of gradients": simple_case(batches=(3, 2), grad_reduction="sum"),
}
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
