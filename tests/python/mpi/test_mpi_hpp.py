"""mpi.hpp, with 2 and 4 ranks: how they meet, miss each other, fail and leave."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from support.cmake_project import build
from support.mpirun import mpirun

EPS = np.finfo(np.float64).eps


class World:
    """What the ranks of mpi_hpp/ have written, by scenario."""

    def __init__(self, program: Path, size: int, level: str, folder: Path) -> None:
        self.size, self.level = size, level
        done = mpirun(size, program, folder, level)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        self._ranks: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(size)]
        for rank, outcomes in enumerate(self._ranks):
            for line in (folder / f"rank{rank}.txt").read_text(encoding="utf-8").splitlines():
                scenario, _, outcome = line.partition(": ")
                outcomes[scenario].append(outcome)

    def __getitem__(self, scenario: str) -> list[list[str]]:
        return [outcomes[scenario] for outcomes in self._ranks]

    def here(self, rank: int, call: str) -> str:
        return f"rank {rank} of {self.size} in {call} over MPI"

    def gave_up(self, rank: int) -> str:
        return f"rank lost, rank {rank} of {self.size} gave up, by an abort or an error there"


@pytest.fixture(scope="module", name="program")
def built_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("mpi_hpp")
    return build(source, tmp_path_factory.mktemp("mpi_hpp")) / "scenarios"


@pytest.fixture(
    scope="module", params=[(2, "multiple"), (4, "funneled")], ids="{0[0]} ranks".format
)
def world(request, program, tmp_path_factory) -> World:
    return World(program, *request.param, tmp_path_factory.mktemp("world"))


def test_what_it_is(world):
    for rank, outcome in enumerate(world["kind"]):
        assert outcome == [f"{rank} {world.size} callback 1"]


def test_sums(world):
    """Exact of integers, and of others the same bits on every rank: in the frame, that fill it, and
    that are longer."""
    first, *others = world["sums"]
    assert all(other == first for other in others)
    lengths, right, _ = zip(*(map(int, line.split()) for line in first), strict=True)
    assert lengths == right == (0, 1, 132, 496, 497, 2052, 30000)


def test_split(world):
    """By parity in the opposite order, then alone, and once without the first rank."""
    ranks = range(world.size)
    for rank, outcome in enumerate(world["splits"]):
        half = [other for other in ranks if other % 2 == rank % 2]
        place = len(half) - 1 - half.index(rank)
        rest = f"{rank - 1} {world.size - 1} {sum(ranks)}" if rank else "none"
        assert outcome == [f"{place} {len(half)} {sum(half)}", f"0 1 {rank}", rest]


def test_our_calls_and_the_trainers_do_not_mix(world):
    n = world.size
    for rank, (outcome,) in enumerate(world["users_traffic"]):
        ours, left = 10 * n, (rank - 1) % n
        assert outcome == f"{ours} {ours} {n * (n + 1) // 2} {left + 1}"


def test_each_handle_frees_what_it_has_made(world):
    """And outlives the trainer's communicator, and that which it was split from."""
    assert world["lifetime"] == [[f"2 0 {world.size}"]] * world.size


def test_numbers(world):
    """An empty rank and unequal ones beside one batch; in the frame, and with longer wires."""
    for rank, outcomes in enumerate(world["numbers"]):
        for channels, outcome in zip((5, 300), outcomes, strict=True):
            values, y, dx = outcome.split()
            assert int(values) == 2 * rank * channels * 7
            assert float(y) < 8 * EPS * 4  # from x up to 4
            assert float(dx) < 8 * EPS * 2  # from dy/std up to 1.5


@pytest.mark.parametrize("scenario", ["other_lengths", "one_rank_splits", "other_channels"])
def test_ranks_in_different_calls(world, scenario):
    """All of them get an error, and MPI stays sound."""
    for outcomes in world[scenario]:
        assert len(outcomes) in {3, 9}
        for error, later, another in zip(*[iter(outcomes)] * 3, strict=True):
            assert error.startswith(
                f"desync, the {world.size} ranks are not in the same call: this is rank "
            )
            assert later.startswith("desync, the s")
            assert "stays failed" in later
            assert another == "no error"


def test_the_error_says_what_this_rank_does(world):
    for rank, outcomes in enumerate(world["other_lengths"]):
        for count, error in zip(
            (10 + rank, 10 + 4000 * (rank % 2), 1000 + rank), outcomes[::3], strict=True
        ):
            assert world.here(rank, f"call 1 (sum of {count} values)") in error


def test_ranks_in_different_layers(world):
    """The frames agree; the core tells the layers apart."""
    for error, *_ in world["other_layers"]:
        assert error.startswith(f"desync, the {world.size} ranks of the group")


def test_a_rank_that_does_not_come(world):
    """The others get their deadline; it gets the call they waited in, then learns."""
    late, *waited = world["absent_rank"]
    for rank, (error, later) in enumerate(waited, 1):
        assert error.startswith(
            f"timeout, {world.here(rank, 'call 1 (sum of 132 values)')} waited 0.5 s"
        )
        assert "stays failed" in later
    assert late[0] == "no error"
    gone = "rank 1" if world.size == 2 else f"{world.size - 1} ranks"
    assert late[1].startswith(f"rank lost, {gone} of {world.size} gave up")


def test_a_rank_that_does_not_come_to_the_rest_of_a_sum(world):
    """Nobody follows with a frame, which would meet the rest of others."""
    for rank, (error, all_reductions) in enumerate(world["absent_rank_of_a_long_sum"]):
        assert int(all_reductions) == 2
        here = world.here(rank, "call 1 (sum of 2052 values)")
        assert error.startswith(f"timeout, {here}" if rank else f"internal error, {here}")


def test_a_rank_that_does_not_come_to_the_making(world):
    for rank, (error,) in enumerate(world["absent_when_made"]):
        if rank:
            here = world.here(rank, "mpi_communicator")
            assert error.startswith(f"timeout, {here} waited 0.5 s")


def test_the_others_learn_that_a_rank_has_thrown(world):
    for rank, outcomes in enumerate(world["thrown"]):
        if rank == 1:
            assert outcomes == ["the data loader failed"]
        else:
            assert outcomes[0].startswith(world.gave_up(1))
            assert world.here(rank, "call 2 (sum of 3 values)") in outcomes[0]


def test_the_others_learn_of_an_abort(world):
    for rank, (error,) in enumerate(world["aborted"]):
        if rank == 1:
            assert error == f"internal error, rank 1 of {world.size} was aborted: the trainer stops"
        else:
            assert error.startswith(world.gave_up(1))


def test_an_abort_ends_the_wait(world):
    first, *others = world["aborted_while_it_waits"]
    here = world.here(0, "call 1 (sum of 3 values)")
    assert first == [
        f"internal error, {here} was aborted while it waited",
        f"internal error, rank 0 of {world.size} was aborted: the trainer stops",
    ]
    for waited, later in others:
        assert waited == "no error"
        assert later.startswith(world.gave_up(0))


def test_threads(world):
    """Refused where MPI was not told of them."""
    for (outcome,) in world["another_thread"]:
        if world.level == "multiple":
            assert outcome == "no error"
        else:
            assert outcome.startswith("invalid argument, ")
            assert "MPI_THREAD_SERIALIZED" in outcome


def test_what_mpi_reports(world):
    for rank, (error, later) in enumerate(world["mpi_reports_an_error"]):
        here = world.here(rank, "call 1 (sum of 3 values)")
        assert error.startswith(f"internal error, {here}: MPI_Iallreduce failed: ")
        assert "internal" in error.rpartition(": MPI_Iallreduce failed: ")[2].lower()
        assert "stays failed" in later


def test_what_is_refused(world):
    for outcomes in world["refusals"]:
        for outcome, message in zip(
            outcomes,
            [
                "refused mpi_communicator: got MPI_COMM_NULL",
                "refused mpi_communicator: got one between two groups",
                "refused mpi_communicator: timeout is 0.000000 s, expected more than 0",
                "unsupported, rank ",
            ],
            strict=True,
        ):
            assert outcome.startswith(message)
        assert "too many values" in outcomes[-1]


def test_before_and_after_mpi(world):
    for (before,), (of_sum, of_another) in zip(
        world["before_the_beginning"], world["after_the_end"], strict=True
    ):
        assert before.startswith("invalid argument, mpi_communicator: MPI is not initialized")
        assert of_sum.startswith("invalid argument, rank ")
        assert "MPI was finalized" in of_sum
        assert of_another.startswith("invalid argument, mpi_communicator: MPI was finalized")
