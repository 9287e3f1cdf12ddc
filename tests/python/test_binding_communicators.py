"""Communicators in Python: threads that wait without the GIL, callables, lifetime, errors."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import syncnorm
from syncnorm import _core
from syncnorm.comm import from_callback, thread_group


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def copy_sum(src: memoryview, dst: memoryview) -> None:
    dst[:] = src


def test_two_threads_meet_because_the_gil_is_released():
    comms = thread_group(2, timeout=30)

    def work(rank: int) -> list[float]:
        total = doubles(0, 0)
        comms[rank].sum(doubles(rank + 1, 10), total)
        return total.tolist()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == [[3, 20], [3, 20]]
    assert [(c.rank, c.size, c.kind) for c in comms] == [(0, 2, "threads"), (1, 2, "threads")]
    assert comms[0].device_memory == ("cpu",)


def test_forward_of_two_threads_is_one_big_batch():
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    shards, y = (x[:2], x[2:]), torch.empty_like(x)
    comms = thread_group(2, timeout=30)
    options = _core.Options()

    def work(rank: int) -> None:
        shard, out = shards[rank], (y[:2], y[2:])[rank]
        scratch = torch.empty(_core.sizes(shard, options).workspace, dtype=torch.uint8)
        _core.forward(options, comms[rank], shard, out, workspace=scratch)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    var, mean = torch.var_mean(x, (0, 2), correction=0, keepdim=True)
    torch.testing.assert_close(y, (x - mean) / (var + 1e-5).sqrt(), rtol=1e-13, atol=1e-13)


def test_timeout_names_the_missing_rank():
    comms = thread_group(3, timeout=0.1)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(c.sum, doubles(1), doubles(0)) for c in (comms[0], comms[2])]
    for future in futures:
        error = future.exception()
        assert isinstance(error, syncnorm.CommunicatorTimeoutError)
        assert isinstance(error, TimeoutError)
        assert "1" in str(error).split("rank", 1)[1]
    with pytest.raises(syncnorm.CommunicatorTimeoutError):
        comms[1].sum(doubles(1), doubles(0))
    with pytest.raises(syncnorm.CommunicatorTimeoutError):
        comms[0].poll()


def test_split_of_threads():
    comms = thread_group(3, timeout=30)

    def work(rank: int) -> tuple[int, int] | None:
        part = comms[rank].split(color=-1 if rank == 1 else 0, key=-rank)
        return None if part is None else (part.rank, part.size)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [(1, 2), None, (0, 2)]


def test_abort_releases_a_waiting_rank():
    comms = thread_group(2, timeout=60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(comms[0].sum, doubles(1), doubles(0))
        comms[1].abort("the trainer stops")
        with pytest.raises(syncnorm.InternalError, match="the trainer stops"):
            waiting.result(timeout=30)


def test_close_is_idempotent_and_final():
    with from_callback(0, 1, copy_sum) as comm:
        assert not comm.closed
    comm.close()
    assert comm.closed
    assert "closed" in repr(comm)
    assert (comm.rank, comm.size) == (0, 1)
    for use in (
        lambda: comm.sum(doubles(1), doubles(0)),
        lambda: comm.split(0),
        comm.poll,
        lambda: comm.abort("late"),
    ):
        with pytest.raises(syncnorm.InvalidArgumentError, match="closed"):
            use()


def test_close_during_a_call_lets_the_call_finish():
    inside, go_on = threading.Event(), threading.Event()

    def slow(src: memoryview, dst: memoryview) -> None:
        inside.set()
        assert go_on.wait(30)
        dst[:] = src

    comm, total = from_callback(0, 1, slow), doubles(0)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(comm.sum, doubles(5), total)
        assert inside.wait(30)
        comm.close()
        go_on.set()
        call.result(timeout=30)
    assert total.item() == 5


@pytest.mark.parametrize(
    "use",
    [
        lambda comm: comm.sum(doubles(1), doubles(0)),
        lambda comm: comm.split(0),
    ],
    ids=["sum", "split"],
)
def test_a_second_thread_is_refused_and_the_first_goes_on(use):
    inside, go_on = threading.Event(), threading.Event()

    def slow(src: memoryview, dst: memoryview) -> None:
        inside.set()
        assert go_on.wait(30)
        dst[:] = src

    comm, total = from_callback(0, 1, slow, lambda _color, _key: (0, 1, copy_sum, None)), doubles(0)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(comm.sum, doubles(5), total)
        assert inside.wait(30)
        with pytest.raises(syncnorm.InvalidArgumentError, match="rank 0 is in use"):
            use(comm)
        comm.poll()
        go_on.set()
        call.result(timeout=30)
    assert total.item() == 5
    use(comm)


def test_abort_of_a_callback_in_progress_fails_the_later_calls():
    inside, go_on = threading.Event(), threading.Event()

    def slow(src: memoryview, dst: memoryview) -> None:
        inside.set()
        assert go_on.wait(30)
        dst[:] = src

    comm, total = from_callback(0, 1, slow, None, lambda _reason: go_on.set()), doubles(0)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(comm.sum, doubles(5), total)
        assert inside.wait(30)
        comm.abort("the trainer stops")
        call.result(timeout=30)
    with pytest.raises(syncnorm.InternalError, match="the trainer stops"):
        comm.sum(doubles(5), total)


def test_close_by_many_threads_at_once():
    for _ in range(100):
        comms = thread_group(2)
        with ThreadPoolExecutor(4) as pool:
            for close in [pool.submit(comm.close) for comm in comms * 4]:
                close.result(timeout=30)
        assert all(comm.closed for comm in comms)


def test_callback_gets_views_that_end_with_the_call():
    seen: list[memoryview] = []

    def keep(src: memoryview, dst: memoryview) -> None:
        assert (src.format, src.readonly, dst.readonly) == ("d", True, False)
        seen.extend([src, dst])
        dst[:] = src

    from_callback(0, 1, keep).sum(doubles(1, 2), doubles(0, 0))
    for view in seen:
        with pytest.raises(ValueError, match="released"):
            view[0]


class TrainerStopped(BaseException):
    pass


@pytest.mark.parametrize(
    "raised", [KeyError("gone"), TrainerStopped(), syncnorm.DesyncError("mine")]
)
def test_callback_exceptions_surface_unchanged(raised):
    def fail(src: memoryview, dst: memoryview) -> None:
        raise raised

    comm, total = from_callback(0, 1, fail), doubles(7)
    with pytest.raises(type(raised)) as caught:
        comm.sum(doubles(1), total)
    assert caught.value is raised
    assert total.item() == 7
    with pytest.raises(syncnorm.InternalError):
        comm.sum(doubles(1), total)


def test_split_of_callbacks():
    def split(color: int, key: int):
        return None if color < 0 else (key, color, copy_sum, None)

    comm = from_callback(1, 2, copy_sum, split)
    part = comm.split(4, 3)
    assert (part.rank, part.size) == (3, 4)
    assert comm.split(-1) is None
    with pytest.raises(syncnorm.UnsupportedError, match="split"):
        part.split(0)
    total = doubles(0)
    part.sum(doubles(2), total)
    assert total.item() == 2


@pytest.mark.parametrize("name", ["sum", "split", "abort"])
def test_callbacks_that_cannot_be_called_are_refused(name):
    with pytest.raises(syncnorm.ArgumentTypeError, match=rf"^{name}: got int, expected a callable"):
        from_callback(**{"rank": 0, "size": 1, "sum": copy_sum, name: 3})


@pytest.mark.parametrize(("rank", "size"), [(-1, 1), (1, 1), (0, 0)])
def test_bad_rank_is_refused(rank, size):
    with pytest.raises(syncnorm.InvalidArgumentError):
        from_callback(rank, size, copy_sum)


def test_bad_sum_arguments_are_refused():
    comm = from_callback(0, 1, copy_sum)
    total = doubles(7, 7)
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"^dst: "):
        comm.sum(doubles(1), total)
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"^src: got dtype float32"):
        comm.sum(torch.zeros(2), total)
    with pytest.raises(syncnorm.ArgumentTypeError, match=r"^src: "):
        comm.sum([1.0, 2.0], total)
    assert total.tolist() == [7, 7]


def test_a_call_inside_a_call_is_refused():
    def again(src: memoryview, dst: memoryview) -> None:
        comm.sum(doubles(1), doubles(0))

    comm = from_callback(0, 1, again)
    with pytest.raises(syncnorm.InvalidArgumentError):
        comm.sum(doubles(1), doubles(0))


def test_callable_that_holds_its_communicator_is_collected():
    class Trainer:
        def __init__(self) -> None:
            self.comm = from_callback(0, 1, self.sum)

        def sum(self, src: memoryview, dst: memoryview) -> None:
            dst[:] = src

    gone = weakref.ref(Trainer())
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (syncnorm.InvalidArgumentError, ValueError),
        (syncnorm.ArgumentTypeError, TypeError),
        (syncnorm.ArgumentTypeError, syncnorm.InvalidArgumentError),
        (syncnorm.UnsupportedError, NotImplementedError),
        (syncnorm.CudaError, RuntimeError),
        (syncnorm.NcclError, RuntimeError),
        (syncnorm.DesyncError, RuntimeError),
        (syncnorm.CommunicatorTimeoutError, TimeoutError),
        (syncnorm.OutOfMemoryError, MemoryError),
        (syncnorm.InternalError, RuntimeError),
        (syncnorm.RankLostError, ConnectionError),
    ],
)
def test_error_classes(error, builtin):
    assert issubclass(error, syncnorm.Error)
    assert issubclass(error, builtin)
    assert error.__module__ == "syncnorm"
    assert str(error("what was wrong")) == "what was wrong"


def test_nothing_leaks_at_exit():
    program = """
import syncnorm
from syncnorm import _core
from syncnorm.comm import from_callback, thread_group
group = thread_group(2)
kept = from_callback(0, 1, lambda src, dst: None, lambda color, key: (0, 1, print, None))
part = kept.split(0)
options, array = _core.Options(), _core.Array(0, (0, 3), (3, 1), "float32")
try:
    _core.Options(eps=-1)
except syncnorm.InvalidArgumentError as error:
    stored = error
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYNCNORM_LEAK_WARNINGS": "1"},
    )
    assert done.stderr == ""
    assert done.stdout == ""


def test_python_runs_while_a_rank_waits():
    comms = thread_group(2, timeout=30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(comms[0].sum, doubles(1), doubles(0))
        time.sleep(0.05)  # with the GIL held by the waiting rank this would not return
        assert not waiting.done()
        comms[1].sum(doubles(1), doubles(0))
        waiting.result(timeout=30)
