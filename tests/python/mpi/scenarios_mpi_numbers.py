"""What ranks over MPI compute: all cases in turn with one communicator, forward and backward."""

from __future__ import annotations

from mpi4py import MPI
from mpi_cases import cases
from mpi_worlds import WAIT_SECONDS, Scenario

from support.cases import Case
from support.driver import Rank, add_gradients, backward_call, forward_call, make_ranks
from support.scenarios import scenario_of
from syncnorm import Communicator
from syncnorm.comm import from_mpi

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)


def step(case: Case, rank: Rank, comm: Communicator) -> None:
    forward_call(rank, comm)
    add_gradients(case, rank)
    backward_call(case, rank, comm)


def trained(case: Case, comm: Communicator) -> Rank:
    rank = make_ranks(case)[comm.rank]
    step(case, rank, comm)
    return rank


@scenario
def all_cases(world: MPI.Intracomm) -> dict[str, Rank]:
    with from_mpi(world, timeout=WAIT_SECONDS) as comm:
        return {name: trained(case, comm) for name, case in cases(world.size).items()}


@scenario
def without_a_deadline(world: MPI.Intracomm) -> Rank:
    with from_mpi(world, timeout=None) as comm:
        return trained(cases(world.size)["unequal, float64"], comm)


@scenario
def many_steps(world: MPI.Intracomm) -> list[Rank]:
    """The running statistics of one step are the next one's."""
    case = cases(world.size)["unequal, float32"]
    rank = make_ranks(case)[world.rank]
    with from_mpi(world, timeout=WAIT_SECONDS) as comm:
        for _ in range(20):
            step(case, rank, comm)
    return rank


@scenario
def pairs(world: MPI.Intracomm) -> Rank:
    """Ranks 0 and 1, and 2 and 3: each pair computes the case of two ranks."""
    with (
        from_mpi(world, timeout=WAIT_SECONDS) as comm,
        comm.split(comm.rank // 2) as pair,
    ):
        return trained(cases(2)["unequal, float64"], pair)
