"""How ranks over MPI meet, miss each other, fail and leave."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from mpi4py import MPI
from mpi_worlds import SHORT, WAIT_SECONDS, Scenario

from support.cases import simple_case
from support.driver import forward_call, make_ranks
from support.scenarios import error_of, scenario_of
from syncnorm import Communicator, CudaError, _core
from syncnorm.comm import from_callback, from_mpi
from syncnorm.comm.mpi_collectives import MpiCollectives
from syncnorm.comm.mpi_duplicates import _keyval

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)
LENGTHS = (0, 1, 132, 496, 497, 2052, 30000)


def summed(comm: Communicator, values: Any) -> np.ndarray:
    src = np.asarray(values, np.float64)
    total = np.full_like(src, np.nan)
    comm.sum(*(_core.Array(a, a.shape, (1,), "float64") for a in (src, total)))
    return total


def sum_error(comm: Communicator, count: int = 3) -> str:
    return error_of(lambda: summed(comm, np.ones(count)))


def impatient(world: MPI.Intracomm) -> tuple[Communicator, MpiCollectives]:
    """A communicator with a short timeout, which takes its time to be made."""
    mpi = MpiCollectives.create(world, WAIT_SECONDS)
    mpi._timeout = SHORT
    return from_callback(mpi.rank, mpi.size, mpi.sum, mpi.split, mpi.abort), mpi


def when_it_waits(mpi: MpiCollectives, act: Callable[[], None]) -> threading.Thread:
    """Act, in a thread, some time after a call has begun."""

    def wait_and_act() -> None:
        while mpi._caller is None:
            time.sleep(0.001)
        time.sleep(SHORT)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def duplicates(comm: MPI.Intracomm) -> int:
    return len(comm.Get_attr(_keyval()) or [])


@scenario
def sums(world: MPI.Intracomm) -> list[np.ndarray]:
    with from_mpi(world, timeout=WAIT_SECONDS) as comm:
        generator = np.random.default_rng(world.rank)
        return [summed(comm, generator.standard_normal(count)) for count in LENGTHS]


@scenario
def kind(world: MPI.Intracomm) -> Any:
    with from_mpi(world) as comm:
        return comm.rank, comm.size, comm.kind, comm.device_memory


@scenario
def splits(world: MPI.Intracomm) -> Any:
    """By parity, in the opposite order; again in groups of one; and none for the first rank."""
    with from_mpi(world, timeout=WAIT_SECONDS) as comm:
        half = comm.split(comm.rank % 2, -comm.rank)
        alone = half.split(half.rank)
        rest = comm.split(0 if comm.rank else -1)
        return [
            (part.rank, part.size, summed(part, [comm.rank, 1]).tolist()) if part else None
            for part in (half, alone, rest)
        ]


@scenario
def users_traffic(world: MPI.Intracomm) -> Any:
    """Collectives and messages of the user's, pending while we sum."""
    given, ranks = np.full(500, 1.0 + world.rank), np.full(500, float(world.rank))
    before, after, last, message = (np.zeros(500) for _ in range(4))
    left, right = (world.rank - 1) % world.size, (world.rank + 1) % world.size
    root = world.size - 1
    with from_mpi(world, timeout=WAIT_SECONDS) as comm:
        pending = [
            world.Iallreduce(given, before),
            world.Irecv(message, left),
            world.Ibcast(ranks if world.rank == root else last, root),
        ]
        ours = [summed(comm, np.full(500, 10.0))[0] for _ in range(5)]
        pending += [world.Isend(ranks, right), world.Iallreduce(given, after)]
        ours += [summed(comm, np.full(500, 10.0))[0] for _ in range(5)]
        MPI.Request.Waitall(pending)
    if world.rank == root:
        last = ranks
    return ours, [values.tolist() for values in (before, after, last, message)]


@scenario
def duplicates_are_used_again(world: MPI.Intracomm) -> Any:
    own = world.Dup()
    counts = []
    for _ in range(20):
        with from_mpi(own, timeout=WAIT_SECONDS) as comm:
            summed(comm, [1.0])
    counts.append(duplicates(own))
    first = from_mpi(own)
    second = from_mpi(own)
    counts.append(duplicates(own))
    # Closed on one rank only: not idle.
    if world.rank == 0:
        first.close()
    third = from_mpi(own)
    counts.append(duplicates(own))
    copy = own.Dup()
    counts.append(duplicates(copy))
    copy.Free()
    results = [summed(comm, [1.0]).item() for comm in (second, third)]
    part = second.split(0)
    own.Free()
    return counts, results, sum_error(second), sum_error(part)


def desync(world: MPI.Intracomm, call: Callable[[Communicator], object]) -> Any:
    """The error of the call, that of the next one, and that another group is sound."""
    comm = from_mpi(world, timeout=WAIT_SECONDS)
    errors = error_of(lambda: call(comm)), sum_error(comm)
    with from_mpi(world, timeout=WAIT_SECONDS) as another:
        return *errors, summed(another, [1.0]).item()


@scenario
def other_lengths(world: MPI.Intracomm) -> Any:
    """Within the frame, beyond it on some ranks, beyond it on all."""
    return [
        desync(world, lambda comm, count=count: summed(comm, np.ones(count)))
        for count in (10 + world.rank, 10 + 4000 * (world.rank % 2), 1000 + world.rank)
    ]


@scenario
def other_channels(world: MPI.Intracomm) -> Any:
    case = simple_case(batches=[2] * world.size, channels=5 + 300 * (world.rank % 2))
    return desync(world, lambda comm: forward_call(make_ranks(case)[comm.rank], comm))


@scenario
def other_layers(world: MPI.Intracomm) -> Any:
    """The same number of channels: the core tells them apart by the tag."""
    rank = make_ranks(simple_case(batches=[2] * world.size))[world.rank]
    rank.tag = 1 + world.rank
    untouched = {name: buffer.bits for name, buffer in rank.out.items()}
    comm = from_mpi(world, timeout=WAIT_SECONDS)
    error = error_of(lambda: forward_call(rank, comm))
    return error, untouched == {name: buffer.bits for name, buffer in rank.out.items()}


@scenario
def one_rank_splits(world: MPI.Intracomm) -> Any:
    return desync(world, lambda comm: comm.split(0) if comm.rank == 0 else summed(comm, np.ones(3)))


@scenario
def absent_rank(world: MPI.Intracomm) -> Any:
    """It comes when the others have given up: the call they waited in, and the one after that."""
    comm, mpi = impatient(world)
    errors = world.rank and (sum_error(comm, 132), sum_error(comm))
    world.Barrier()
    mpi._timeout = WAIT_SECONDS
    return errors or (sum_error(comm, 132), sum_error(comm))


@scenario
def absent_rank_of_a_long_sum(world: MPI.Intracomm) -> Any:
    """The others' next message would be the rest of the sum: they cannot say that they are gone."""
    comm, _ = impatient(world)
    error = world.rank and sum_error(comm, 2052)
    world.Barrier()
    return error or sum_error(comm, 2052)


@scenario
def absent_when_made(world: MPI.Intracomm) -> Any:
    own = world.Dup()
    error = error_of(lambda: from_mpi(own, timeout=SHORT)) if world.rank else None
    world.Barrier()
    return error


@scenario
def raised_in_the_block(world: MPI.Intracomm) -> Any:
    def train() -> None:
        with from_mpi(world, timeout=WAIT_SECONDS) as comm:
            summed(comm, [1.0])
            if comm.rank == 1:
                raise KeyError("gone")
            for _ in range(2):
                summed(comm, [1.0])

    return error_of(train)


@scenario
def aborted_while_it_waits(world: MPI.Intracomm) -> Any:
    comm, mpi = impatient(world)
    mpi._timeout = None
    if world.rank == 0:
        thread = when_it_waits(mpi, lambda: comm.abort("the trainer stops"))
        errors = sum_error(comm), sum_error(comm)
        thread.join()
    world.Barrier()
    return errors if world.rank == 0 else (sum_error(comm), sum_error(comm))


@scenario
def interrupted_while_it_waits(world: MPI.Intracomm) -> Any:
    comm, mpi = impatient(world)
    mpi._timeout = WAIT_SECONDS
    if world.rank == 0:
        thread = when_it_waits(mpi, lambda: os.kill(os.getpid(), signal.SIGINT))
        errors = sum_error(comm), sum_error(comm)
        thread.join()
    world.Barrier()
    return errors if world.rank == 0 else (sum_error(comm), sum_error(comm))


@scenario
def refusals(world: MPI.Intracomm) -> Any:
    half = world.Split(world.rank % 2)
    between = half.Create_intercomm(0, world, 1 - world.rank % 2)
    freed = world.Dup()
    freed.Free()
    calls = {
        "text": lambda: from_mpi("world"),
        "intercommunicator": lambda: from_mpi(between),
        "null": lambda: from_mpi(MPI.COMM_NULL),
        "freed": lambda: from_mpi(freed),
        "timeout": lambda: from_mpi(world, timeout=0),
        "option": lambda: from_mpi(world, max_ctas=2),
    }
    return {name: error_of(call) for name, call in calls.items()}


def made(*given: Any, **options: Any) -> Any:
    return given, options


def no_driver() -> bytes:
    raise CudaError("no driver: é")


@scenario
def over_nccl(world: MPI.Intracomm) -> Any:
    """A creation that only records: the id of rank 0, or its error, is every rank's."""

    def over(unique_id: Callable[[], bytes]) -> Any:
        with mock.patch.multiple(_core, nccl_unique_id=unique_id, nccl_communicator=made):
            return from_mpi(world, 10 + world.rank, timeout=7.0, max_ctas=2)

    return over(lambda: os.urandom(128)), error_of(lambda: over(no_driver)), duplicates(world)


@scenario
def finalized(world: MPI.Intracomm) -> Any:
    """The last one: calls that nobody waits for are pending, and MPI ends all the same."""
    comm = from_mpi(world)
    MPI.Finalize()
    errors = [sum_error(comm), error_of(lambda: from_mpi(world))]
    comm.abort("late")
    comm.close()
    return errors
