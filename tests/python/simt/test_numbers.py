"""Both passes of the CUDA backend over NCCL, equal to the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

from support.buffers import Buffer
from support.cases import Case, simple_case
from support.compare import check_frozen, check_training
from support.device_cases import CASES
from support.driver import (
    WAIT_SECONDS,
    Rank,
    add_gradients,
    assert_same_bits,
    backward_call,
    forward_call,
    make_ranks,
    run_frozen,
    run_phases,
)
from support.nccl_ranks import each, group
from syncnorm import _core


def run_over_nccl(case: Case, control: bool = False) -> list[Rank]:
    ranks = make_ranks(case, device="cuda")

    def both_passes(pair: tuple[Rank, _core.Communicator]) -> None:
        rank, comm = pair
        if control:
            rank.control = Buffer((_core.CONTROL_SIZE,), "uint8", fill=0)
        forward_call(rank, comm)
        add_gradients(case, rank)
        backward_call(case, rank, comm)
        comm.wait(timeout=WAIT_SECONDS)
        for scratch in rank.scratches:
            scratch.check_guards("workspace")

    with group(len(ranks)) as comms:
        each(list(zip(ranks, comms, strict=True)), both_passes)
    return ranks


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_training_over_nccl(case: Case) -> None:
    check_training(case, run_over_nccl(case))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_phases_have_the_same_bits(case: Case) -> None:
    """Two ranks: a sum of two has but one order."""
    assert_same_bits(run_phases(case, device="cuda"), run_over_nccl(case))


def test_the_control_buffer_is_left_as_it_was_and_changes_nothing() -> None:
    case = simple_case(batches=(3, 2), channels=9, spatial=(33, 31))
    ranks = run_over_nccl(case, control=True)
    for rank in ranks:
        rank.control.check_guards("control")
        assert not np.any(rank.control.values)
    assert_same_bits(ranks, run_over_nccl(case))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_running_statistics_in_use(dtype: str) -> None:
    case = simple_case(dtype, batches=(3, 0), residual=True, activation="relu")
    check_frozen(case, run_frozen(case, device="cuda"))
