"""Batch normalization over MPI against the reference, with 2 and 4 ranks under mpirun."""

from __future__ import annotations

import pytest
from mpi_cases import cases
from mpi_worlds import World

from support.compare import check_training
from support.driver import RESULTS, assert_same_bits, run_one_call

NAMES = {size: list(cases(size)) for size in (2, 4)}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, World]:
    return {
        size: World(size, tmp_path_factory.mktemp(f"world{size}"), "scenarios_mpi_numbers")
        for size in (2, 4)
    }


@pytest.mark.parametrize(
    ("size", "name"), [(size, name) for size, names in NAMES.items() for name in names]
)
def test_a_case(worlds, size, name):
    """Mean, invstd and running statistics have the same bits on all ranks, too."""
    check_training(cases(size)[name], [ranks[name] for ranks in worlds[size]["all_cases"]])


@pytest.mark.parametrize("name", NAMES[2])
def test_two_ranks_have_the_bits_of_two_threads(worlds, name):
    """a + b has no order."""
    ranks = [ranks[name] for ranks in worlds[2]["all_cases"]]
    assert_same_bits(ranks, run_one_call(cases(2)[name]))


@pytest.mark.parametrize("size", [2, 4])
def test_without_a_deadline_the_bits_are_the_same(worlds, size):
    with_one = [ranks["unequal, float64"] for ranks in worlds[size]["all_cases"]]
    assert_same_bits(worlds[size]["without_a_deadline"], with_one)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_stay_together_over_many_steps(worlds, size):
    first, *others = worlds[size]["many_steps"]
    assert first.out["num_batches_tracked"].values.tolist() == [23]
    for other in others:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert other.out[name].bits == first.out[name].bits


def test_groups_of_a_split_are_groups_of_their_own(worlds):
    case = cases(2)["unequal, float64"]
    one, other = worlds[4]["pairs"][:2], worlds[4]["pairs"][2:]
    check_training(case, one)
    assert_same_bits(one, other, RESULTS)
