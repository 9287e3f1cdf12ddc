"""Layers that hold a group: copies, pickles and files, and how the group is found again."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from scenarios_distributed import shard
from shard_reference import normalize_shards
from thread_ranks import run_ranks
from torch import Tensor, multiprocessing
from worlds import World

from support.scenarios import error_of
from syncnorm.torch import SyncBatchNorm

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(name="world", scope="module")
def world_of_four(worlds) -> World:
    return worlds("scenarios_of_four", 4)


def normalized(rank: int, ranks: list[int]) -> Tensor:
    """What rank gets where these ranks are the group."""
    return normalize_shards([shard(r) for r in ranks]).ys[ranks.index(rank)]


def loaded(saved: str) -> Any:
    """What a rank pickled."""
    return pickle.loads(bytes.fromhex(saved))


def pair(rank: int) -> list[int]:
    return [0, 1] if rank < 2 else [2, 3]


def test_the_group_is_found_where_it_is(world: World) -> None:
    for rank, got in enumerate(world["found_where_it_is"]):
        torch.testing.assert_close(got, [normalized(rank, pair(rank))] * 2, **EXACT)


def test_its_name_tells_it_from_others_of_the_same_ranks(world: World) -> None:
    assert world["found_by_name_among_the_same_ranks"] == [[True] * 3] * 4


def test_it_is_found_after_it_was_made_anew(world: World) -> None:
    for rank, got in enumerate(world["found_after_it_was_made_anew"]):
        torch.testing.assert_close(got, normalized(rank, [1] if rank == 1 else [0, 2, 3]), **EXACT)


def test_it_is_found_where_it_was_made_after_loading(world: World) -> None:
    for rank, got in enumerate(world["loaded_before_the_group_is_made"]):
        ranks = [1, 2] if rank in (1, 2) else [0, 3]
        torch.testing.assert_close(got, normalized(rank, ranks), **EXACT)


def test_a_layer_without_its_group_does_all_but_talk(world: World) -> None:
    for rank, (evaluated, error, alone) in enumerate(world["layer_without_its_group"]):
        torch.testing.assert_close(evaluated[1:], evaluated[:1] * 2, rtol=0, atol=0)
        torch.testing.assert_close(alone, normalized(rank, [0, 1, 2, 3]), **EXACT)
        ranks = "[0, 1, 2]" if rank < 3 else "[3]"
        assert error.startswith("InvalidArgumentError: process_group: the layer was saved with the")
        assert f"of the ranks {ranks}, and this process, rank {rank} of 4, has no such" in error
        assert f"create the group on every rank with torch.distributed.new_group({ranks})" in error


def test_the_group_of_other_ranks_is_not_taken(world: World) -> None:
    *inside, _, outside = world["group_of_other_ranks"]
    torch.testing.assert_close(inside[0], normalized(0, [0, 1]), **EXACT)
    assert "of the ranks [0, 1], and this process, rank 3 of 4, is not one of them; set" in outside


def test_a_layer_whose_group_was_destroyed_can_be_saved(world: World) -> None:
    for rank, saved in enumerate(world["groups_that_were_destroyed_before"]):
        of_group, of_mesh = [
            error_of(lambda layer=layer: layer(shard(0))) for layer in loaded(saved)
        ]
        assert "(own) had been destroyed, so that its ranks are not known; set" in of_group
        assert f"of the ranks {pair(rank)}, and torch.distributed is not" in of_mesh


def test_a_mesh_dimension_is_kept_as_its_group(world: World) -> None:
    for rank, got in enumerate(world["mesh_dimension"]):
        torch.testing.assert_close(got, normalized(rank, pair(rank)), **EXACT)


def test_the_default_group_is_that_of_the_process(world: World) -> None:
    for rank, got in enumerate(world["default_group"]):
        torch.testing.assert_close(got, [normalized(rank, [0, 1, 2, 3])] * 2, **EXACT)


def test_what_was_no_group_of_this_rank_stays_so(world: World) -> None:
    for error in world["what_is_no_group_of_this_rank"]:
        assert "this rank is not in the group" in error


def test_a_communicator_cannot_be_kept_and_the_loaded_layer_says_so(world: World) -> None:
    for rank, error in enumerate(world["communicator"]):
        assert error.startswith(
            "InvalidArgumentError: process_group: the layer was saved with a syncnorm.Comm"
        )
        assert f"(rank {rank} of 4), which exists in its process only; create a new" in error


def test_a_process_without_torch_distributed_loads_all_but_the_group(world: World) -> None:
    layer = loaded(world["saved_for_another_process"][1][0])
    assert repr(layer) == repr(SyncBatchNorm(4))
    layer.eval()(shard(0))
    error = error_of(lambda: layer.train()(shard(0)))
    assert "of the ranks [0, 1, 2], and torch.distributed is not initialized" in error
    assert "(the first 3)" in error
    again = copy.deepcopy(pickle.loads(pickle.dumps(layer)))
    assert error_of(lambda: again(shard(0))) == error
    again.process_group = None
    torch.testing.assert_close(again(shard(0)), normalize_shards([shard(0)]).ys[0], **EXACT)


def _rank_of_another_job(rank: int, layer: SyncBatchNorm, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(layer(shard(rank)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_layer_given_to_processes_finds_its_group_in_them(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two ranks of four are all ranks there."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    layer = loaded(world["saved_for_another_process"][0][1])
    multiprocessing.spawn(_rank_of_another_job, (layer, str(tmp_path)), nprocs=2)
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(got, normalized(rank, [0, 1]), **EXACT)


def test_copies_share_a_communicator() -> None:
    def body(rank: int, comm) -> list[Tensor]:
        layer = SyncBatchNorm(4, process_group=comm)
        copies = [copy.copy(layer), copy.deepcopy(layer)]
        assert all(copied.process_group is comm for copied in copies)
        assert copies[0].weight is layer.weight
        assert copies[1].weight is not layer.weight
        return [copied(shard(rank)) for copied in copies]

    for rank, got in enumerate(run_ranks(2, body)):
        torch.testing.assert_close(got, [normalized(rank, [0, 1])] * 2, **EXACT)


def test_a_pickle_contains_no_cache() -> None:
    layer = SyncBatchNorm(4)
    before = set(layer.__getstate__())
    layer(shard(0).float())
    assert set(layer.__getstate__()) == before
    assert b"syncnorm.settings" not in pickle.dumps(layer)


def test_pickles_from_before_groups_were_kept() -> None:
    """They have no group."""
    layer = SyncBatchNorm(4)
    old = SyncBatchNorm.__new__(SyncBatchNorm)
    old.__setstate__({**vars(layer), "process_group": None})
    assert old.process_group is None
    assert repr(old) == repr(layer)
