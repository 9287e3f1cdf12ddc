"""What goes wrong with NCCL: each its own error, within its deadline, and the first one stays."""

from __future__ import annotations

import threading

import pytest

import syncnorm
from support.nccl_ranks import Vector, each, group, join, outcomes
from syncnorm.comm import from_nccl_id, nccl_group, nccl_unique_id


def assert_stays(comm: syncnorm.Communicator, error: type[syncnorm.Error], match: str) -> None:
    """Every later use gives the first failure again."""
    uses = (comm.poll, comm.wait, lambda: Vector(comm.rank, [1]).enqueue(comm))
    for use in (*uses, lambda: comm.split(0)):
        with pytest.raises(error, match=match):
            use()


def test_ranks_that_never_come(double):
    id = nccl_unique_id()
    with pytest.raises(syncnorm.CommunicatorTimeoutError, match=r"0\.2"):
        from_nccl_id(id, 0, 2, 0, init_timeout=0.2)
    assert double.alive == 0


def test_no_id_is_made(double):
    double.set(FAIL="GetUniqueId:1:2")
    with pytest.raises(syncnorm.NcclError, match="ncclGetUniqueId"):
        nccl_unique_id()
    assert len(nccl_unique_id()) == 128


def test_a_group_is_not_made(double):
    double.set(FAIL="CommInitRankConfig:1:3")
    with pytest.raises(syncnorm.NcclError, match="ncclCommInitRankConfig"):
        nccl_group(init_timeout=2)
    assert double.alive == 0


def test_a_slow_library_is_waited_for(double):
    double.set(SLOW_MS=20)
    with group(2) as comms:
        assert each(comms, lambda comm: Vector(comm.rank, [1]).sum(comm)) == [[2], [2]]


def test_a_sum_that_fails(double):
    with group(1) as (comm,):
        assert Vector(0, [1]).sum(comm) == [1]
        double.set(FAIL="AllReduce:3:6")  # the first one was at the creation
        with pytest.raises(syncnorm.NcclError, match="ncclAllReduce"):
            Vector(0, [1]).enqueue(comm)
        assert_stays(comm, syncnorm.NcclError, "ncclAllReduce")
    assert double.calls("CommAbort") == 1


def test_a_peer_that_dies(double):
    with group(1, sum_timeout=None) as (comm,):
        comm.poll()
        double.set(ASYNC_ERROR=6)
        with pytest.raises(syncnorm.NcclError, match=r"\(6\)"):
            comm.poll()
        double.set(ASYNC_ERROR="")
        assert_stays(comm, syncnorm.NcclError, r"\(6\)")


def test_the_watchdog_ends_a_sum_without_progress(double):
    """Nobody calls: the failure is found, the communicator aborted, the stream free again."""
    with group(1, sum_timeout=0.2) as (comm,):
        double.set(STALL="AllReduce")
        Vector(0, range(132)).enqueue(comm)
        while not double.calls("CommAbort"):
            threading.Event().wait(0.005)
        for match in (r"132 values", r"0\.2 s"):
            assert_stays(comm, syncnorm.CommunicatorTimeoutError, match)
    assert double.calls("CommAbort") == 1


def test_the_watchdog_releases_a_call_that_hangs(double):
    with group(1, sum_timeout=0.2) as (comm,):
        double.set(HANG="AllReduce")
        with pytest.raises(syncnorm.CommunicatorTimeoutError, match="made no progress"):
            Vector(0, [1]).enqueue(comm)


def test_waiting_has_a_deadline(double):
    with group(2, sum_timeout=None) as comms:
        Vector(0, [1]).enqueue(comms[0])  # rank 1 does not come
        with pytest.raises(syncnorm.CommunicatorTimeoutError, match=r"waited 0\.2 s"):
            comms[0].wait(timeout=0.2)
        assert_stays(comms[0], syncnorm.CommunicatorTimeoutError, r"waited 0\.2 s")
    assert double.calls("CommAbort") >= 1


def test_waiting_needs_a_time(double):
    with group(1) as (comm,):
        for timeout in (0, -1, float("nan")):
            with pytest.raises(syncnorm.InvalidArgumentError, match="timeout"):
                comm.wait(timeout=timeout)


def test_abort_releases_a_rank_that_waits():
    comms = join(2)

    def use(comm: syncnorm.Communicator) -> None:
        if comm.rank == 0:
            Vector(0, [1]).sum(comm)
        else:
            comms[0].abort("the trainer stops")

    error, _ = outcomes(comms, use)
    assert isinstance(error, syncnorm.InternalError)
    assert "the trainer stops" in str(error)
    each(comms, lambda comm: comm.close())


def test_a_split_that_fails(double):
    with group(1) as (comm,):
        double.set(FAIL="CommSplit:1:5")
        with pytest.raises(syncnorm.NcclError, match="ncclCommSplit"):
            comm.split(0)
        assert_stays(comm, syncnorm.NcclError, "ncclCommSplit")


def test_closing_a_group_whose_sum_never_ends(double):
    (comm,) = join(1, sum_timeout=0.2)
    double.set(STALL="AllReduce")
    Vector(0, [1]).enqueue(comm)
    comm.close()
    assert double.alive == 0
