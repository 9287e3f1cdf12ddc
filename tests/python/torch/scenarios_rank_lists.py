"""What every rank of a world of four does with lists of ranks as groups."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
import torch.distributed as dist
from scenarios_distributed import layer_of, shard
from torch import Tensor
from worlds import Scenario, destroy

from support.scenarios import error_of, scenario_of
from syncnorm.torch import SyncBatchNorm, megengine, mmcv, sync_batch_norm
from syncnorm.torch.groups.pickling import KeptGroup
from syncnorm.torch.groups.rank_lists import groups_of

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)


def pair(rank: int) -> list[int]:
    return [0, 1] if rank < 2 else [2, 3]


def crossed(rank: int) -> list[int]:
    """Those of the same remainder, not in their order."""
    return [2, 0] if rank % 2 == 0 else [3, 1]


def numbers_of(layer: torch.nn.Module, rank: int) -> list[Tensor]:
    """A step of training on a shard of the rank's own size."""
    x = shard(rank, (rank + 2, 4)).requires_grad_()
    y = layer(x)
    y.backward(shard(10 + rank, (rank + 2, 4)))
    assert y.shape == x.shape
    gradients = [layer.weight.grad.flatten(), layer.bias.grad.flatten()]
    buffers = [layer.running_mean.flatten(), layer.running_var.flatten()]
    return [y.detach(), x.grad, *gradients, *buffers]


@scenario
def list_of_two(rank: int, _: int) -> Any:
    return numbers_of(layer_of(4, process_group=pair(rank)), rank)


def all_but(lonely: int, rank: int) -> list[int]:
    """In descending order; the lonely rank by itself."""
    return [lonely] if rank == lonely else [r for r in (3, 2, 1, 0) if r != lonely]


@scenario
def list_where_ranks_have_unlike_numbers_of_groups(rank: int, _: int) -> Any:
    """torch would name the new group by them."""
    others = [dist.new_group(ranks) for ranks in ([1], [1, 2])]
    y = layer_of(4, process_group=tuple(all_but(3, rank)))(shard(rank))
    destroy(*others)
    return y


@scenario
def function_over_a_list(rank: int, _: int) -> Any:
    return sync_batch_norm(shard(rank), training=True, process_group=crossed(rank))


@scenario
def all_ranks_in_any_order(rank: int, _: int) -> Any:
    before = len(groups_of([0, 1, 2, 3]))
    layer = layer_of(4, process_group=[3, 0, 2, 1])
    y = layer(shard(rank))
    assert layer.process_group is None
    assert len(groups_of([0, 1, 2, 3])) == before
    return y


@scenario
def one_list_is_one_group(rank: int, _: int) -> Any:
    ranks = all_but(1, rank)
    layers = [layer_of(4, process_group=ranks[::step]) for step in (1, 1, -1)]
    for layer in layers:
        layer(shard(rank))
    group = layers[0].process_group
    assert groups_of(sorted(ranks))[0] is group
    assert rank == 1 or len(groups_of(sorted(ranks))) == 1
    return [layer.process_group is group for layer in layers]


@scenario
def group_that_is_there_already(rank: int, _: int) -> Any:
    ranks = [[0, 3], [1, 2]]
    groups = [dist.new_group(r) for r in ranks]
    mine = int(rank in ranks[1])
    layer = layer_of(4, process_group=ranks[mine])
    y = layer(shard(rank))
    assert layer.process_group is groups[mine]
    destroy(groups[mine])
    return y


@scenario
def list_again_after_its_group_was_destroyed(rank: int, _: int) -> Any:
    ys = []
    for _ in range(2):
        layer = layer_of(4, process_group=all_but(2, rank))
        ys.append(layer(shard(rank)))
        destroy(layer.process_group)
    return ys


@scenario
def list_of_one(rank: int, _: int) -> Any:
    return layer_of(4, process_group=[rank])(shard(rank))


@scenario
def list_of_other_ranks(rank: int, _: int) -> Any:
    """Every rank is given the pair of the ranks 0 and 1; evaluation does not look at it."""
    layer = layer_of(4, process_group=[1, 0])
    layer.eval()(shard(rank))
    assert layer.process_group == [1, 0]
    return error_of(lambda: layer.train()(shard(rank))) if rank > 1 else layer.train()(shard(rank))


@scenario
def refused_lists(rank: int, _: int) -> Any:
    lists: list[Any] = [[0, 1, 0], [rank, 4], [-1, rank], [], [str(rank)], [0.0, 1.0], [None]]
    return [error_of(lambda r=r: layer_of(4, process_group=r)(shard(rank))) for r in lists]


@scenario
def mmcv_over_a_list(rank: int, _: int) -> Any:
    layers = [
        mmcv.SyncBatchNorm(4, group=pair(rank), stats_mode=mode, dtype=torch.float64)
        for mode in ("default", "N")
    ]
    for layer in layers:
        torch.nn.init.ones_(layer.weight)
    steps = [numbers_of(layer, rank) for layer in layers]
    assert all(layer.group in groups_of(pair(rank)) for layer in layers)
    everywhere = mmcv.SyncBatchNorm(4)
    assert everywhere.group is dist.group.WORLD
    return steps, [layers[0].group_size, everywhere.group_size]


@scenario
def mmcv_evaluates_without_tracking(rank: int, _: int) -> Any:
    options = {"affine": False, "track_running_stats": False, "dtype": torch.float64}
    return mmcv.SyncBatchNorm(4, group=pair(rank), **options).eval()(shard(rank))


@scenario
def megengine_over_a_list(rank: int, _: int) -> Any:
    layer = megengine.SyncBatchNorm(4, group=pair(rank), dtype=torch.float64)
    step = numbers_of(layer, rank)
    assert layer.group in groups_of(pair(rank))
    running = [t.double().reshape(1, 4, 1, 1) for t in (torch.zeros(4), torch.ones(4))]
    x = shard(rank, (rank + 2, 4))
    y = megengine.sync_batch_norm(x, *running, training=True, group=pair(rank))
    return step, [y, *(each.flatten() for each in running)]


@scenario
def copies_of_a_list(rank: int, _: int) -> Any:
    """Before the first call and after it."""
    layer: SyncBatchNorm = layer_of(4, process_group=crossed(rank))
    early = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    assert [copied.process_group for copied in early] == [crossed(rank)] * 2
    layer(shard(rank))
    assert layer.__getstate__()["process_group"].ranks == tuple(sorted(crossed(rank)))
    assert isinstance(layer.__getstate__()["process_group"], KeptGroup)
    copies = [*early, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    ys = [copied(shard(rank)) for copied in copies]
    assert all(copied.process_group is layer.process_group for copied in copies)
    return ys
