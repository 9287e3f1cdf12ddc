"""The groups that a layer may be given: dimensions of device meshes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from scenarios_distributed import shard
from shard_reference import normalize_shards
from torch import Tensor
from worlds import World

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(name="world", scope="module")
def world_of_four(worlds) -> World:
    return worlds("scenarios_of_four", 4)


def row(rank: int) -> list[int]:
    """The ranks that are beside rank in the mesh [[0, 1], [2, 3]]."""
    return [0, 1] if rank < 2 else [2, 3]


def column(rank: int) -> list[int]:
    return [0, 2] if rank % 2 == 0 else [1, 3]


def normalized(rank: int, ranks: list[int]) -> Tensor:
    """What rank gets where these ranks are the group."""
    return normalize_shards([shard(r) for r in ranks]).ys[ranks.index(rank)]


def test_each_dimension_of_a_mesh_is_a_group(world: World) -> None:
    for rank, got in enumerate(world["mesh_dimensions"]):
        # The dimension "rows" runs over the rows, within a column.
        expected = {"rows": normalized(rank, column(rank)), "columns": normalized(rank, row(rank))}
        torch.testing.assert_close(got, expected, **EXACT)


def test_a_whole_mesh_of_one_dimension(world: World) -> None:
    for rank, got in enumerate(world["whole_mesh"]):
        torch.testing.assert_close(got, normalized(rank, [0, 1, 2, 3]), **EXACT)


def test_the_function_takes_a_mesh_dimension(world: World) -> None:
    for rank, got in enumerate(world["function_over_a_mesh_dimension"]):
        torch.testing.assert_close(got, normalized(rank, row(rank)), **EXACT)


def test_copies_talk_in_the_same_mesh_dimension(world: World) -> None:
    for rank, got in enumerate(world["copies_in_a_mesh_dimension"]):
        torch.testing.assert_close(got, [normalized(rank, row(rank))] * 2, **EXACT)


def test_a_mesh_of_two_dimensions_is_refused_by_their_names(world: World) -> None:
    for named, unnamed in world["mesh_of_two_dimensions"]:
        assert named == (
            "InvalidArgumentError: process_group: got a DeviceMesh of 2 dimensions,"
            " ('rows', 'columns'), expected one of 1 dimension, over which the batch is divided,"
            " such as mesh['rows']"
        )
        assert "2 dimensions, without names" in unnamed
        assert "mesh.get_group(0)" in unnamed


def test_a_rank_outside_its_layer_s_mesh_raises(world: World) -> None:
    *inside, first_outside, second_outside = world["mesh_of_other_ranks"]
    for rank, got in enumerate(inside):
        torch.testing.assert_close(got, normalized(rank, [0, 1]), **EXACT)
    for error in (first_outside, second_outside):
        assert error == (
            "InvalidArgumentError: process_group: this rank is not in the group; expected on every"
            " rank a group that contains it"
        )


def test_evaluation_looks_at_no_group(world: World) -> None:
    for rank, got in enumerate(world["evaluation_needs_no_group"]):
        expected = shard(rank) / (1 + 1e-5) ** 0.5
        torch.testing.assert_close(got, [expected] * 4, **EXACT)


def test_a_communicator_over_nccl_of_a_mesh_dimension(world: World) -> None:
    places = world["nccl_communicator_of_a_mesh_dimension"]
    assert places == [[rank // 2, 2, rank] for rank in range(4)]


def test_what_is_no_group_is_named(world: World) -> None:
    for errors in world["what_is_no_group"]:
        for error, kind in zip(errors, ("str", "int", "Tensor"), strict=True):
            expected = f"ArgumentTypeError: process_group: got {kind}, expected a torch.distributed"
            assert error.startswith(expected)
