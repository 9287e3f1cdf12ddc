"""Communicators over MPI, with 2 and 4 ranks: how they meet, miss each other, fail and leave."""

from __future__ import annotations

import numpy as np
import pytest
from mpi_worlds import World, mpirun


@pytest.fixture(scope="module", params=[2, 4], ids="{} ranks".format)
def world(request, tmp_path_factory) -> World:
    return World(request.param, tmp_path_factory.mktemp("world"), "scenarios_mpi_groups")


def test_what_it_is(world):
    expected = [(rank, world.size, "callback", ("cpu",)) for rank in range(world.size)]
    assert world["kind"] == expected


def test_every_rank_gets_the_same_bits(world):
    """Without a tolerance: of vectors in the frame, that fill it, and that are longer."""
    first, *others = world["sums"]
    assert [len(total) for total in first] == [0, 1, 132, 496, 497, 2052, 30000]
    for totals in others:
        assert [a.tobytes() for a in totals] == [b.tobytes() for b in first]
    assert not any(np.isnan(total).any() for total in first)


def test_split(world):
    ranks = range(world.size)
    for rank, (half, alone, rest) in enumerate(world["splits"]):
        members = [other for other in ranks if other % 2 == rank % 2]
        place = len(members) - 1 - members.index(rank)
        assert half == (place, len(members), [sum(members), len(members)])
        assert alone == (0, 1, [rank, 1])
        others = (rank - 1, world.size - 1, [sum(ranks), world.size - 1])
        assert rest == (others if rank else None)


def test_our_calls_and_the_users_do_not_mix(world):
    n = world.size
    for rank, (ours, users) in enumerate(world["users_traffic"]):
        assert ours == [10 * n] * 10
        expected = (n * (n + 1) / 2, n * (n + 1) / 2, n - 1, (rank - 1) % n)
        assert users == [[value] * 500 for value in expected]


def test_duplicates_are_used_again_and_freed(world):
    for counts, results, *errors in world["duplicates_are_used_again"]:
        assert counts == [1, 2, 3, 0]
        assert results == [world.size] * 2
        for error in errors:
            assert error.startswith("InvalidArgumentError: communicator over MPI")
            assert "was freed" in error


NOT_THE_SAME_CALL = "DesyncError: the {} ranks are not in the same call"


@pytest.mark.parametrize("scenario", ["other_channels", "one_rank_splits"])
def test_ranks_in_different_calls(world, scenario):
    for error, later, another in world[scenario]:
        assert error.startswith(NOT_THE_SAME_CALL.format(world.size))
        assert later.startswith("InternalError")
        assert another == world.size


def test_ranks_that_sum_vectors_of_different_lengths(world):
    for rank, outcomes in enumerate(world["other_lengths"]):
        counts = (10 + rank, 10 + 4000 * (rank % 2), 1000 + rank)
        for count, (error, _, another) in zip(counts, outcomes, strict=True):
            assert error.startswith(NOT_THE_SAME_CALL.format(world.size))
            assert f"rank {rank} of {world.size} in call 1 (sum of {count} values)" in error
            assert another == world.size


def test_ranks_in_different_layers(world):
    for error, untouched in world["other_layers"]:
        assert error.startswith("DesyncError")
        assert untouched


def test_a_rank_that_does_not_come(world):
    """The others get their deadline; it gets the call they waited in, then learns."""
    late, *waited = world["absent_rank"]
    for rank, (error, later) in enumerate(waited, 1):
        assert error.startswith(
            f"CommunicatorTimeoutError: rank {rank} of {world.size} in call 1 (sum of 132 values)"
            " over MPI waited 0.3 s"
        )
        assert later.startswith("InternalError")
    assert late[0] == "no error"
    gone = "rank 1" if world.size == 2 else f"{world.size - 1} ranks"
    assert late[1].startswith(f"RankLostError: {gone} of {world.size} left the group")


def test_a_rank_that_does_not_come_to_a_long_sum(world):
    for error in world["absent_rank_of_a_long_sum"]:
        assert error.startswith("CommunicatorTimeoutError")


def test_a_rank_that_does_not_come_to_from_mpi(world):
    for rank, error in enumerate(world["absent_when_made"][1:], 1):
        assert error.startswith(f"CommunicatorTimeoutError: rank {rank} waited 0.3 s in from_mpi")


def test_the_others_learn_that_a_rank_has_raised(world):
    for rank, error in enumerate(world["raised_in_the_block"]):
        if rank == 1:
            assert error == "KeyError: 'gone'"
        else:
            assert error.startswith(f"RankLostError: rank 1 of {world.size} left the group")


def test_an_abort_ends_the_wait(world):
    (first, later), *others = world["aborted_while_it_waits"]
    aborted = f"InternalError: rank 0 of {world.size} was aborted: the trainer stops"
    assert (first, later) == (aborted, aborted)
    gone = f"RankLostError: rank 0 of {world.size} left the group"
    assert [errors[0] for errors in others] == ["no error"] * (world.size - 1)
    assert all(errors[1].startswith(gone) for errors in others)


def test_an_interrupt_ends_the_wait(world):
    (first, later), *others = world["interrupted_while_it_waits"]
    assert first.startswith("KeyboardInterrupt")
    assert later.startswith("InternalError")
    gone = f"RankLostError: rank 0 of {world.size} left the group"
    assert [errors[0] for errors in others] == ["no error"] * (world.size - 1)
    assert all(errors[1].startswith(gone) for errors in others)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("text", "ArgumentTypeError: mpi_comm: got str, expected an mpi4py.MPI.Intracomm"),
        ("intercommunicator", "InvalidArgumentError: mpi_comm: got an intercommunicator"),
        ("null", "InvalidArgumentError: mpi_comm: got MPI.COMM_NULL"),
        ("freed", "InvalidArgumentError: mpi_comm: got MPI.COMM_NULL"),
        ("timeout", "InvalidArgumentError: timeout: got 0, expected seconds > 0"),
        ("option", "InvalidArgumentError: max_ctas: got an NCCL option without a device"),
    ],
)
def test_what_is_refused(world, name, start):
    for refusals in world["refusals"]:
        assert refusals[name].startswith(start)


def test_the_id_of_nccl_travels_over_mpi(world):
    outcomes = world["over_nccl"]
    assert len({given[0] for (given, _), _, _ in outcomes}) == 1
    for rank, ((given, options), error, _) in enumerate(outcomes):
        assert given[1:] == (rank, world.size, 10 + rank)
        assert options == {"sum_timeout": 7.0, "max_ctas": 2}
        prefix = "" if rank == 0 else "rank 0 could not create the NCCL id: "
        assert error == f"CudaError: {prefix}no driver: é"


def test_after_the_end_of_mpi(world):
    for of_sum, of_from_mpi in world["finalized"]:
        assert of_sum.startswith("InvalidArgumentError: communicator over MPI: MPI was finalized")
        assert of_from_mpi.startswith("InvalidArgumentError: mpi_comm: MPI was finalized")


def test_a_job_ends_when_a_rank_raises():
    """Also without mpi4py's own `python -m mpi4py`."""
    program = """
from array import array
from mpi4py import MPI
from syncnorm._core import Array
from syncnorm.comm import from_mpi
with from_mpi(MPI.COMM_WORLD) as comm:
    if comm.rank == 1:
        raise KeyError("gone")
    src, dst = array("d", [1]), array("d", [0])
    comm.sum(Array(src, (1,), (1,), "float64"), Array(dst, (1,), (1,), "float64"))
"""
    done = mpirun(2, "-c", program)
    assert done.returncode != 0
    assert "KeyError: 'gone'" in done.stderr
    assert "RankLostError: rank 1 of 2 left the group" in done.stderr


@pytest.mark.parametrize("abort", [False, True])
def test_exit_while_a_daemon_thread_waits(abort):
    """MPI is finalized while a call is pending."""
    program = f"""
import threading, time
from array import array
from mpi4py import MPI
from syncnorm._core import Array
from syncnorm.comm import from_mpi
comm = from_mpi(MPI.COMM_WORLD)
def sum():
    src, dst = array("d", [1]), array("d", [0])
    comm.sum(Array(src, (1,), (1,), "float64"), Array(dst, (1,), (1,), "float64"))
def aborted():
    try:
        sum()
    except RuntimeError:
        pass
if comm.rank == 0:
    threading.Thread(target=aborted, daemon=True).start()
    time.sleep(0.5)
    if {abort}: comm.abort("reason")
MPI.COMM_WORLD.Barrier()
"""
    done = mpirun(2, "-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_is_refused():
    program = """
import os, sys
from mpi4py import MPI
import numpy as np
import syncnorm.numpy
from syncnorm.comm import from_mpi
x = np.ones((2, 3), "f4")
comm = from_mpi(MPI.COMM_WORLD)
child = os.fork()
if child == 0:
    code = 1
    try:
        syncnorm.numpy.forward(x, comm=comm)
    except syncnorm.UnsupportedError as error:
        code = 0 if "forked child" in str(error) else 2
    os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
syncnorm.numpy.forward(x, comm=comm)
comm.close()
"""
    done = mpirun(2, "-c", program)
    assert done.returncode == 0, done.stderr
