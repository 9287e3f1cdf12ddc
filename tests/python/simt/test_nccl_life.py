"""The life of a communicator over NCCL: made, used, divided, borrowed, closed."""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import syncnorm
from support.nccl_ranks import WAIT_SECONDS, Vector, each, group, join, outcomes
from syncnorm.comm import borrow_nccl, from_nccl_id, nccl_group, nccl_unique_id


def sums(comms: list[syncnorm.Communicator]) -> list[list[float]]:
    """Rank r gives 1 + r and 10."""
    return each(comms, lambda comm: Vector(comm.rank, [1 + comm.rank, 10]).sum(comm))


def test_the_double_is_what_is_found(double_path):
    found = syncnorm.capabilities()
    assert found["nccl"] == f"2.28.9 ({double_path})"
    assert found["cuda_built"]
    assert found["cuda_devices"] == 2
    assert found["other_nccl"] == []


def test_ids_are_distinct():
    ids = {nccl_unique_id() for _ in range(5)}
    assert len(ids) == 5
    assert {len(id) for id in ids} == {128}


@pytest.mark.parametrize("size", [1, 2])
def test_ranks_that_share_an_id_sum(size):
    with group(size) as comms:
        assert [(c.rank, c.size, c.kind) for c in comms] == [(r, size, "nccl") for r in range(size)]
        assert comms[0].device_memory == ("cuda",)
        for _ in range(3):
            assert sums(comms) == [[sum(range(size + 1)), 10 * size]] * size


def test_a_group_of_all_devices(double):
    comms = nccl_group(init_timeout=WAIT_SECONDS)
    assert [(c.rank, c.size) for c in comms] == [(0, 2), (1, 2)]
    assert sums(comms) == [[3, 20]] * 2
    each(comms, lambda comm: comm.close())
    assert double.alive == 0


def test_a_group_of_chosen_devices():
    (comm,) = nccl_group([1])
    with comm:
        assert Vector(1, [4]).sum(comm) == [4]


def test_split_into_groups_of_one_and_none():
    with group(2) as comms:
        parts = each(comms, lambda comm: comm.split(comm.rank))
        assert [(part.rank, part.size) for part in parts] == [(0, 1), (0, 1)]
        for rank, part in enumerate(parts):
            assert Vector(rank, [7]).sum(part) == [7]
        assert each(comms, lambda comm: comm.split(-1)) == [None, None]
        turned = each(comms, lambda comm: comm.split(0, key=-comm.rank))
        assert [part.rank for part in turned] == [1, 0]
        for part in (*parts, *turned):
            part.close()


def test_close_is_idempotent_and_final(double):
    with group(2) as comms:
        sums(comms)
        each(comms, lambda comm: comm.close())
        assert double.alive == 0
        each(comms, lambda comm: comm.close())
        for use in (
            lambda: Vector(0, [1]).sum(comms[0]),
            lambda: comms[0].split(0),
            comms[0].poll,
            comms[0].wait,
            lambda: comms[0].abort("late"),
        ):
            with pytest.raises(syncnorm.InvalidArgumentError, match="closed"):
                use()
    assert (double.calls("CommFinalize"), double.calls("CommAbort")) == (2, 0)


def test_a_communicator_that_is_forgotten_ends(double):
    comms = join(2)
    assert double.alive == 2
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(lambda: comms.pop() and None) for _ in range(2)]
    assert [end.result() for end in ends] == [None, None]
    assert double.alive == 0


def test_python_runs_while_a_close_waits(double):
    (comm,) = join(1)
    double.set(HANG="CommFinalize")
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(comm.close)
        while not double.calls("CommFinalize"):
            threading.Event().wait(0.001)
        double.set(HANG="")  # with the GIL held by the closing thread this would not be reached
        closing.result(timeout=WAIT_SECONDS)
    assert double.alive == 0


def test_an_exception_in_the_with_block_aborts(double):
    comms = join(2)
    with pytest.raises(KeyError), comms[0]:
        raise KeyError("gone")
    assert comms[0].closed
    assert (double.calls("CommAbort"), double.calls("CommFinalize")) == (1, 0)
    comms[1].abort("the other rank is gone")
    with pytest.raises(syncnorm.InternalError, match="the other rank is gone"):
        comms[1].poll()
    comms[1].close()
    assert double.calls("CommAbort") == 2


def test_a_second_thread_at_the_same_time_is_refused(double):
    (comm,) = join(1)
    before = double.calls("AllReduce")
    double.set(HANG="AllReduce")
    with ThreadPoolExecutor(1) as pool, comm:
        first, total = Vector(0, [5]), Vector(0, [1])
        call = pool.submit(first.enqueue, comm)
        while double.calls("AllReduce") == before:
            threading.Event().wait(0.001)
        with pytest.raises(syncnorm.InvalidArgumentError):
            total.enqueue(comm)
        double.set(HANG="")
        call.result(timeout=WAIT_SECONDS)
        comm.wait(timeout=WAIT_SECONDS)
        assert first.dst.values.tolist() == [5]
        assert total.sum(comm) == [1]


def test_sums_on_several_streams_run_in_the_order_of_the_calls(double):
    """Done on the last stream means done on all."""
    runtime = double.library  # the simulated one, which the double is linked to
    with group(2) as comms:

        def use(comm: syncnorm.Communicator) -> list[float]:
            streams = [ctypes.c_void_p() for _ in range(3)]
            assert runtime.cudaSetDevice(comm.rank) == 0
            for stream in streams:
                assert runtime.cudaStreamCreate(ctypes.byref(stream)) == 0
            vectors = [Vector(comm.rank, [number]) for number in range(12)]
            for number, vector in enumerate(vectors):
                vector.enqueue(comm, streams[number % 3].value)
            comm.wait(streams[11 % 3].value, timeout=WAIT_SECONDS)
            return [vector.dst.values.item() for vector in vectors]

        assert each(comms, use) == [[2 * number for number in range(12)]] * 2


def test_a_borrowed_communicator_sums_and_stays_its_owner_s(double, foreign):
    with borrow_nccl(foreign) as comm:
        assert (comm.rank, comm.size, comm.kind) == (0, 1, "nccl")
        assert Vector(0, [3]).sum(comm) == [3]
        with comm.split(0) as part:
            assert Vector(0, [4]).sum(part) == [4]
        assert double.alive == 1
    with pytest.raises(KeyError), borrow_nccl(foreign) as again:
        raise KeyError("gone")
    assert again.closed
    assert double.alive == 1
    assert double.calls("CommAbort") == 0


def test_what_can_never_be_right():
    id = nccl_unique_id()
    for rank, size in ((-1, 1), (1, 1), (0, 0)):
        with pytest.raises(syncnorm.InvalidArgumentError, match="rank"):
            from_nccl_id(id, rank, size, 0)
    with pytest.raises(syncnorm.InvalidArgumentError, match="both on device 0"):
        nccl_group([0, 0])
    with pytest.raises(syncnorm.InvalidArgumentError, match="NULL"):
        borrow_nccl(0)
    with pytest.raises(syncnorm.Error, match="7"):
        from_nccl_id(id, 0, 1, 7)


def test_without_an_id_the_address_is_needed(monkeypatch):
    monkeypatch.delenv("NCCL_COMM_ID", raising=False)
    with pytest.raises(syncnorm.InvalidArgumentError, match="NCCL_COMM_ID"):
        from_nccl_id(None, 0, 1, 0)


def test_two_ranks_on_one_device_are_refused():
    id = nccl_unique_id()
    errors = outcomes(range(2), lambda rank: from_nccl_id(id, rank, 2, 0, init_timeout=30))
    assert [type(error) for error in errors] == [syncnorm.NcclError] * 2


def test_host_memory_is_refused():
    with group(1) as (comm,):
        vector = Vector(0, [1])
        vector.device = ("cpu", 0)
        with pytest.raises(syncnorm.UnsupportedError, match="host memory"):
            vector.enqueue(comm)
        comm.poll()
