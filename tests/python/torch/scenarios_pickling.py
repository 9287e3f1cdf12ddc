"""What every rank of a world of four does to save layers and to load them."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
import torch.distributed as dist
from scenarios_distributed import layer_of, shard
from scenarios_groups import two_by_two
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from worlds import Scenario, destroy

from support.scenarios import error_of, scenario_of
from syncnorm.comm import from_callback
from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm, revert_sync_batchnorm

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)


def copied_by_pickle(layer: SyncBatchNorm) -> SyncBatchNorm:
    return pickle.loads(pickle.dumps(layer))


def pair_of(rank: int) -> dist.ProcessGroup:
    """A group of the ranks 0 and 1, or 2 and 3. Every rank calls it."""
    return [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]


@scenario
def found_where_it_is(rank: int, _: int) -> Any:
    """With pickle, and with torch.save within a model."""
    pair = pair_of(rank)
    model = nn.Sequential(nn.Identity(), layer_of(4, process_group=pair))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = [copied_by_pickle(model[1]), torch.load(file, weights_only=False)[1]]
    assert all(layer.process_group is pair for layer in loaded)
    return [layer(shard(rank)) for layer in loaded]


@scenario
def found_by_name_among_the_same_ranks(rank: int, _: int) -> Any:
    pairs = [pair_of(rank) for _ in range(3)]
    layers = [layer_of(4, process_group=pair) for pair in pairs]
    return [copied_by_pickle(layer).process_group is layer.process_group for layer in layers]


@scenario
def found_after_it_was_made_anew(rank: int, _: int) -> Any:
    def new_groups() -> list[dist.ProcessGroup]:
        """Two groups of the ranks 0, 2 and 3, or of rank 1."""
        both = [
            [dist.new_group(ranks, group_desc=name) for ranks in ([0, 2, 3], [1])]
            for name in ("first", "second")
        ]
        return [groups[rank == 1] for groups in both]

    groups = new_groups()
    saved = pickle.dumps(layer_of(4, process_group=groups[1]))
    destroy(*groups)
    early = pickle.loads(saved)
    assert "no such group" in error_of(lambda: early(shard(rank)))
    anew = new_groups()
    late = pickle.loads(saved)
    y = early(shard(rank))
    # The names are other ones, the description tells the groups apart.
    assert early.process_group is late.process_group is anew[1]
    destroy(*anew)
    return y


@scenario
def loaded_before_the_group_is_made(rank: int, _: int) -> Any:
    """A group of the ranks 0 and 3, and one of 1 and 2."""
    ranks = [[0, 3], [1, 2]]
    mine = int(rank in ranks[1])
    before = [dist.new_group(r) for r in ranks][mine]
    saved = pickle.dumps(layer_of(4, process_group=before))
    destroy(before)
    layer = pickle.loads(saved)
    after = [dist.new_group(r) for r in ranks][mine]
    y = layer(shard(rank))
    assert layer.process_group is after
    destroy(after)
    return y


@scenario
def layer_without_its_group(rank: int, _: int) -> Any:
    """All that it can do, and what it says where it cannot."""
    groups = [dist.new_group([0, 1, 2], group_desc="three"), dist.new_group([3])]
    layer = layer_of(4, process_group=groups[rank // 3])
    saved = pickle.dumps(layer)
    destroy(groups[rank // 3])
    lost = copied_by_pickle(pickle.loads(saved))
    lost.load_state_dict(layer.state_dict())
    assert repr(lost) == repr(layer)
    assert convert_sync_batchnorm(lost) is lost
    reverted = revert_sync_batchnorm(copied_by_pickle(lost))
    evaluated = [module.eval()(shard(rank)) for module in (layer, lost, reverted)]
    error = error_of(lambda: lost.train()(shard(rank)))
    lost.process_group = None
    return evaluated, error, lost(shard(rank))


@scenario
def group_of_other_ranks(rank: int, _: int) -> Any:
    """What the ranks 0 and 1 saved, loaded everywhere."""
    pair = pair_of(rank)
    carried = [pickle.dumps(layer_of(4, process_group=pair))]
    dist.broadcast_object_list(carried)
    loaded = pickle.loads(carried[0])
    return error_of(lambda: loaded(shard(rank))) if rank > 1 else loaded(shard(rank))


@scenario
def groups_that_were_destroyed_before(rank: int, _: int) -> Any:
    group = [dist.new_group([r], group_desc="own") for r in range(4)][rank]
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))["columns"]
    layers = [layer_of(4, process_group=destroyed) for destroyed in (group, mesh)]
    destroy(group, mesh.get_group())
    return pickle.dumps(layers).hex()


@scenario
def mesh_dimension(rank: int, _: int) -> Any:
    mesh = two_by_two()
    loaded = copied_by_pickle(layer_of(4, process_group=mesh["columns"]))
    assert loaded.process_group is mesh["columns"].get_group()
    return loaded(shard(rank))


@scenario
def default_group(rank: int, _: int) -> Any:
    layers = [layer_of(4), layer_of(4, process_group=dist.group.WORLD)]
    loaded = [copied_by_pickle(layer) for layer in layers]
    assert all(layer.process_group is None for layer in loaded)
    return [layer(shard(rank)) for layer in loaded]


@scenario
def what_is_no_group_of_this_rank(rank: int, _: int) -> Any:
    loaded = copied_by_pickle(layer_of(4, process_group=dist.GroupMember.NON_GROUP_MEMBER))
    return error_of(lambda: loaded(shard(rank)))


@scenario
def communicator(rank: int, size: int) -> Any:
    layer = layer_of(4, process_group=from_callback(rank, size, lambda *_: None))
    twice = copied_by_pickle(copied_by_pickle(layer))
    twice.eval()(shard(rank))
    return error_of(lambda: twice.train()(shard(rank)))


@scenario
def saved_for_another_process(rank: int, size: int) -> Any:
    """Layers over all ranks but the last, and over the first two."""
    ranks = [list(range(size - 1)), [0, 1]]
    groups = [dist.new_group(r, group_desc=f"the first {len(r)}") for r in ranks]
    member = [rank in r for r in ranks]
    return [
        pickle.dumps(layer_of(4, process_group=group)).hex() if inside else None
        for group, inside in zip(groups, member, strict=True)
    ]
