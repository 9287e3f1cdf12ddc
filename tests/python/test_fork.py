"""Forked children: the groups of the parent are refused at once, everything else works."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

import syncnorm
from syncnorm.comm import from_callback, thread_group
from syncnorm.numpy import SyncBatchNorm, forward

X = np.random.default_rng(0).normal(3, 2, (16, 8, 40)).astype("f4")
DEADLINE = 60  # seconds; far below the timeouts of the groups

# Of Python, and of JAX if an earlier test has imported it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning"
)


def copy_sum(src: memoryview, dst: memoryview) -> None:
    dst[:] = src


def in_child(body: Callable[[], None]) -> None:
    """Run body in a forked child, and fail if it raises or does not end."""
    child = multiprocessing.get_context("fork").Process(target=body)
    child.start()
    child.join(DEADLINE)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise AssertionError("the child hangs")
    assert child.exitcode == 0


def groups_of_two() -> list[syncnorm.Communicator]:
    callback = from_callback(0, 2, copy_sum, lambda _color, _key: (0, 2, copy_sum, None))
    return [*thread_group(2, timeout=3600), callback]


def test_a_group_of_the_parent_is_refused():
    groups = groups_of_two()

    def child() -> None:
        total = torch.zeros(1, dtype=torch.float64)
        for comm in groups:
            for use in (
                partial(forward, X, comm=comm),
                partial(comm.sum, torch.ones(1, dtype=torch.float64), total),
                partial(comm.split, 0),
                comm.poll,
                comm.wait,
                partial(comm.abort, "reason"),
            ):
                with pytest.raises(syncnorm.UnsupportedError, match="forked child") as caught:
                    use()
                assert f"process {os.getppid()}" in str(caught.value)
                assert f"process {os.getpid()}" in str(caught.value)
            assert (comm.rank in (0, 1), comm.size, comm.closed) == (True, 2, False)
            comm.close()

    in_child(child)
    for comm in groups:
        comm.poll()  # what the child did does not matter here


def test_a_child_may_close_collect_and_leave_with_blocks():
    def child() -> None:
        with pytest.raises(KeyError, match="gone"), groups[0]:
            raise KeyError("gone")
        with pytest.raises(KeyError, match="gone"), groups[2]:
            raise KeyError("gone")
        groups.clear()

    aborted: list[str] = []
    groups = groups_of_two()
    groups[2] = from_callback(0, 2, copy_sum, None, aborted.append)
    in_child(child)
    assert aborted == []
    groups[0].poll()


def test_a_fork_while_the_locks_of_a_group_are_in_use():
    first, _ = thread_group(2, timeout=3600)
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            with pytest.raises(syncnorm.InternalError):
                first.poll()  # takes the lock of the failed group

    first.abort("reason")
    threads = [threading.Thread(target=poll) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            in_child(first.close)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_fork_inside_of_a_callback():
    children: list[int] = []

    def fork(src: memoryview, dst: memoryview) -> None:
        dst[:] = src
        pid = os.fork()
        if pid == 0:
            try:
                with pytest.raises(syncnorm.UnsupportedError, match="forked child"):
                    comm.poll()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    comm = from_callback(0, 1, fork)
    comm.sum(torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert children == [0]


def test_a_group_of_one_and_no_group_work_in_a_child():
    alone = from_callback(0, 1, copy_sum)
    expected, _ = forward(X, num_threads=3)

    def child() -> None:
        for comm in (None, alone):
            y, _ = forward(X, comm=comm, num_threads=3)
            np.testing.assert_array_equal(y, expected)

    in_child(child)


def test_a_child_creates_groups():
    inherited = thread_group(2, timeout=3600)

    def child() -> None:
        group = thread_group(2, timeout=30)
        results: list[np.ndarray | None] = [None, None]

        def work(rank: int) -> None:
            results[rank] = forward(X[8 * rank : 8 * rank + 8], comm=group[rank])[0]

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_allclose(np.concatenate(results), forward(X)[0], rtol=1e-5, atol=1e-5)
        with pytest.raises(syncnorm.UnsupportedError, match="forked child"):
            inherited[0].poll()

    in_child(child)


def test_a_fork_while_other_threads_compute():
    stop = threading.Event()
    expected, _ = forward(X, num_threads=3)

    def compute() -> None:
        while not stop.is_set():
            forward(X, num_threads=3)

    def child() -> None:
        np.testing.assert_array_equal(forward(X, num_threads=3)[0], expected)

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            in_child(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class Normalized(torch.utils.data.Dataset[torch.Tensor]):
    """Uses layers in the worker: one without a group, one with the parent's."""

    def __init__(self) -> None:
        self.alone = SyncBatchNorm(8)
        self.grouped = SyncBatchNorm(8, comm=thread_group(2, timeout=3600)[0])

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        with pytest.raises(syncnorm.UnsupportedError, match="forked child"):
            self.grouped(X)
        return torch.from_numpy(self.alone(X + index))


def test_workers_of_a_data_loader():
    loader = torch.utils.data.DataLoader(
        Normalized(), num_workers=2, multiprocessing_context="fork", timeout=DEADLINE
    )
    begin = time.monotonic()
    assert len(list(loader)) == 4
    assert time.monotonic() - begin < DEADLINE
