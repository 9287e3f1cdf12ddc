"""Signals while a call waits: handlers run, and their exceptions end the wait."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

import numpy as np
import pytest
import torch

import syncnorm
from syncnorm.comm import from_callback, thread_group
from syncnorm.numpy import forward

X = np.random.default_rng(0).normal(3, 2, (4, 8)).astype("f4")
BOUND = 20  # seconds, for a machine that is busy; the timeouts of the groups are far longer


class Stop(Exception):
    pass


@contextmanager
def signals(handler, after: float = 0.3, number: int = signal.SIGUSR1) -> Iterator[None]:
    """Send a signal to the process after some time, for which `handler` is installed."""
    previous = signal.signal(number, handler)
    timer = threading.Timer(after, os.kill, (os.getpid(), number))
    begin = time.monotonic()
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(number, previous)
    assert time.monotonic() - begin < BOUND


def ones() -> torch.Tensor:
    return torch.ones(1, dtype=torch.float64)


def test_ctrl_c_ends_the_wait_and_fails_the_group():
    first, second = thread_group(2, timeout=3600)
    with (
        signals(signal.default_int_handler, number=signal.SIGINT),
        pytest.raises(KeyboardInterrupt),
    ):
        forward(X, comm=first)
    for comm in (first, second):
        with pytest.raises(syncnorm.InternalError, match="rank 0 was interrupted"):
            comm.poll()


def test_the_ranks_that_wait_as_well_are_released():
    comms = thread_group(3, timeout=3600)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(comms[1].sum, ones(), ones())
        with (
            signals(signal.default_int_handler, number=signal.SIGINT),
            pytest.raises(KeyboardInterrupt),
        ):
            comms[0].sum(ones(), ones())
        with pytest.raises(syncnorm.InternalError, match="rank 0 was interrupted"):
            waiting.result(timeout=BOUND)


def test_a_split_is_interrupted():
    first, _ = thread_group(2, timeout=3600)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stop

    with signals(stop), pytest.raises(Stop):
        first.split(0)


def test_a_handler_that_returns_does_not_end_the_wait():
    first, second = thread_group(2, timeout=3600)
    handled: list[int] = []
    pool = ThreadPoolExecutor(1)

    def release(number: int, _frame: FrameType | None) -> None:
        handled.append(number)
        pool.submit(second.sum, ones(), ones())

    total = torch.zeros(1, dtype=torch.float64)
    with signals(release), pool:
        first.sum(ones(), total)
    assert handled == [signal.SIGUSR1]
    assert total.item() == 2


def test_a_handler_makes_calls():
    first, second = thread_group(2, timeout=3600)
    expected, _ = forward(X)
    results: list[np.ndarray] = []
    pool = ThreadPoolExecutor(1)

    def compute(_number: int, _frame: FrameType | None) -> None:
        results.append(forward(X * 100)[0])
        inner = thread_group(2, timeout=60)
        other = pool.submit(forward, X, comm=inner[1])
        results.append(forward(X, comm=inner[0])[0])
        other.result(timeout=BOUND)
        with pytest.raises(syncnorm.InvalidArgumentError, match="in use"):
            first.sum(ones(), ones())
        pool.submit(forward, X, comm=second)

    with signals(compute), pool:
        y, _ = forward(X, comm=first)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(results[1], expected, rtol=1e-5, atol=1e-5)


def test_an_interrupt_of_a_nested_wait_surfaces_in_the_outer_call():
    inner, _ = thread_group(2, timeout=3600)

    def wait(_src: memoryview, _dst: memoryview) -> None:
        inner.sum(ones(), ones())

    outer = from_callback(0, 2, wait)
    with (
        signals(signal.default_int_handler, number=signal.SIGINT),
        pytest.raises(KeyboardInterrupt),
    ):
        forward(X, comm=outer)
    for comm in (inner, outer):
        with pytest.raises(syncnorm.InternalError):
            comm.poll()
    forward(X)  # nothing of the interrupt is left


def test_ctrl_c_in_a_callback_surfaces_unchanged_and_fails_the_handle():
    def wait(_src: memoryview, _dst: memoryview) -> None:
        time.sleep(BOUND)

    comm = from_callback(0, 2, wait)
    with (
        signals(signal.default_int_handler, number=signal.SIGINT),
        pytest.raises(KeyboardInterrupt),
    ):
        forward(X, comm=comm)
    with pytest.raises(syncnorm.InternalError):
        comm.poll()


def test_a_wait_of_another_thread_is_not_interrupted():
    first, second = thread_group(2, timeout=3600)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.sum, ones(), ones())
        with (
            signals(signal.default_int_handler, number=signal.SIGINT),
            pytest.raises(KeyboardInterrupt),
        ):
            time.sleep(BOUND)
        assert not waiting.done()
        second.sum(ones(), ones())
        waiting.result(timeout=BOUND)
