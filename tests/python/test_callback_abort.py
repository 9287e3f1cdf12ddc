"""The abort function of a callback communicator, and the results of its split function."""

from __future__ import annotations

import gc
import re
import weakref

import pytest
import torch

import syncnorm
from syncnorm import Communicator
from syncnorm.comm import from_callback


def copy_sum(src: memoryview, dst: memoryview) -> None:
    dst[:] = src


@pytest.fixture(name="reasons")
def reasons_of_aborts() -> list[str]:
    return []


@pytest.fixture(name="comm")
def communicator_that_records(reasons: list[str]) -> Communicator:
    return from_callback(0, 1, copy_sum, abort=reasons.append)


def assert_failed(comm: Communicator, reason: str) -> None:
    one = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(syncnorm.InternalError, match=reason):
        comm.sum(one, one.clone())


def test_abort_passes_the_reason(comm, reasons):
    comm.abort("the trainer stops")
    assert reasons == ["the trainer stops"]
    assert_failed(comm, "the trainer stops")


def test_an_exception_in_the_with_block_is_the_reason(comm, reasons):
    with pytest.raises(KeyError), comm:
        raise KeyError("gone")
    assert reasons == ["rank 0 left its with-block with KeyError: 'gone'"]
    with from_callback(0, 1, copy_sum, abort=reasons.append):
        pass
    assert len(reasons) == 1


def test_abort_without_a_function():
    comm = from_callback(0, 1, copy_sum)
    comm.abort("the trainer stops")
    assert_failed(comm, "the trainer stops")


def test_an_error_of_the_callable_comes_out_and_the_communicator_is_closed():
    def fail(reason: str) -> None:
        raise OSError(reason)

    comm = from_callback(0, 1, copy_sum, abort=fail)
    with pytest.raises(OSError, match="KeyError"), comm:
        raise KeyError("gone")
    assert comm.closed


def test_parts_have_their_own(reasons):
    def split(color: int, key: int):
        return 0, 1, copy_sum, None, reasons.append

    comm = from_callback(0, 1, copy_sum, split, lambda reason: reasons.append(f"whole: {reason}"))
    comm.split(0).abort("stop")
    assert reasons == ["stop"]


@pytest.mark.parametrize("part", [(0, 1, copy_sum), (0, 1, copy_sum, None, None, None)])
def test_a_part_of_another_number_of_values_is_refused(part):
    def split(color: int, key: int):
        return part

    comm = from_callback(0, 1, copy_sum, split)
    with pytest.raises(syncnorm.InvalidArgumentError, match=rf"got {len(part)} values, expected"):
        comm.split(0)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (3, "got int, expected (rank, size, sum, split[, abort])"),
        (("0", 1, copy_sum, None), "rank: got str, expected an int"),
        ((0, 1.5, copy_sum, None), "size: got float, expected an int"),
        ((0, 1, None, None), "sum: got NoneType, expected a callable"),
        ((0, 1, copy_sum, 3), "split: got int, expected a callable"),
        ((0, 1, copy_sum, None, 3), "abort: got int, expected a callable"),
    ],
)
def test_a_part_of_wrong_types_is_refused(part, message):
    def split(color: int, key: int):
        return part

    comm = from_callback(0, 1, copy_sum, split)
    with pytest.raises(syncnorm.ArgumentTypeError, match=re.escape(f"split callable: {message}")):
        comm.split(0)


def test_a_callable_that_holds_its_communicator_is_collected():
    class Trainer:
        def __init__(self) -> None:
            self.comm = from_callback(0, 1, copy_sum, abort=self.stop)

        def stop(self, reason: str) -> None:
            raise AssertionError(reason)

    gone = weakref.ref(Trainer())
    gc.collect()
    assert gone() is None
