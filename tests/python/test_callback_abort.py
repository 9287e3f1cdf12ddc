"""The abort of a callback communicator: how a trainer learns that it must tell the others."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import syncnorm
from syncnorm import Communicator
from syncnorm.comm import from_callback


def copy_sum(src: memoryview, dst: memoryview) -> None:
    dst[:] = src


@pytest.fixture(name="told")
def reasons_that_were_told() -> list[str]:
    return []


@pytest.fixture(name="comm")
def communicator_that_tells(told: list[str]) -> Communicator:
    return from_callback(0, 1, copy_sum, abort=told.append)


def assert_failed(comm: Communicator, reason: str) -> None:
    one = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(syncnorm.InternalError, match=reason):
        comm.sum(one, one.clone())


def test_abort_tells_the_reason(comm, told):
    comm.abort("the trainer stops")
    assert told == ["the trainer stops"]
    assert_failed(comm, "the trainer stops")


def test_an_exception_in_the_with_block_is_told(comm, told):
    with pytest.raises(KeyError), comm:
        raise KeyError("gone")
    assert told == ["rank 0 left its with-block with KeyError: 'gone'"]
    with from_callback(0, 1, copy_sum, abort=told.append):
        pass
    assert len(told) == 1


def test_without_one_nobody_is_told():
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


def test_parts_have_their_own(told):
    def split(color: int, key: int):
        return 0, 1, copy_sum, None, told.append

    comm = from_callback(0, 1, copy_sum, split, lambda reason: told.append(f"whole: {reason}"))
    comm.split(0).abort("stop")
    assert told == ["stop"]


@pytest.mark.parametrize("part", [(0, 1, copy_sum), (0, 1, copy_sum, None, None, None)])
def test_a_part_of_another_number_of_values_is_refused(part):
    def split(color: int, key: int):
        return part

    comm = from_callback(0, 1, copy_sum, split)
    with pytest.raises(syncnorm.InvalidArgumentError, match=rf"got {len(part)} values, expected"):
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
