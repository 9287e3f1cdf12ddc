"""What the end of a with-block means for the others, and waiting for a communicator."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import syncnorm
from syncnorm.comm import from_callback, thread_group


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def copy_sum(src: memoryview, dst: memoryview) -> None:
    dst[:] = src


class Odd(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (KeyError("gone"), "rank 1 left its with-block with KeyError: 'gone'"),
        (KeyboardInterrupt(), "rank 1 left its with-block with KeyboardInterrupt"),
        (Odd(), "rank 1 left its with-block with Odd"),
    ],
)
def test_an_exception_in_the_with_block_releases_the_others(raised, text):
    waiting, leaving = thread_group(2, timeout=60)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(waiting.sum, doubles(1), doubles(0))
        with pytest.raises(type(raised)) as caught, leaving:
            raise raised
        assert caught.value is raised
        assert leaving.closed
        with pytest.raises(syncnorm.InternalError, match=text):
            call.result(timeout=30)


def test_a_with_block_without_an_exception_does_not_abort():
    first, second = thread_group(2, timeout=60)
    totals = [doubles(0), doubles(0)]
    with ThreadPoolExecutor(1) as pool, second:
        call = pool.submit(first.sum, doubles(1), totals[0])
        second.sum(doubles(2), totals[1])
        call.result(timeout=30)
    assert totals[0].item() == totals[1].item() == 3
    with pytest.raises(syncnorm.RankLostError, match="rank 1 left"):
        first.sum(doubles(1), doubles(0))


def test_the_with_block_of_a_closed_communicator_lets_exceptions_through():
    def closed_inside() -> Iterator[None]:
        with from_callback(0, 1, copy_sum) as comm:
            comm.close()
            yield
            raise KeyError("gone")

    steps = closed_inside()
    next(steps)
    with pytest.raises(KeyError, match="gone"):
        next(steps)


def test_waiting_where_sums_are_done_when_they_return():
    comm = from_callback(0, 1, copy_sum)
    comm.wait()
    comm.wait(stream=0, timeout=0.5)
    comm.close()
    with pytest.raises(syncnorm.InvalidArgumentError, match="closed"):
        comm.wait()
