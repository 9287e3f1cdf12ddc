"""What every rank of a world of four does with group_size and the groups of machines."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from scenarios_distributed import layer_of, shard
from worlds import Scenario, destroy

from support.scenarios import error_of, scenario_of
from syncnorm.torch import (
    LazySyncBatchNorm,
    SyncBatchNorm,
    convert_sync_batchnorm,
    encoding,
    megengine,
    mmcv,
    mxnet,
    paddle,
    sync_batch_norm,
)
from syncnorm.torch.groups import rank_lists, relative
from syncnorm.torch.groups.rank_lists import groups_of

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)


def forget_machines(rank: int) -> None:
    """Every rank calls it, so that none reads what another wrote before."""
    rank_lists._found.clear()
    dist.barrier()
    dist.distributed_c10d._get_default_store().delete_key(f"syncnorm/host of {rank}")
    dist.barrier()


@contextmanager
def machines(rank: int, hosts: str, **environment: str) -> Iterator[None]:
    """Four ranks on these machines, one character each."""
    forget_machines(rank)
    with (
        mock.patch.object(relative, "_host", return_value=f"host {hosts[rank]}"),
        mock.patch.dict(os.environ, environment),
    ):
        yield
    forget_machines(rank)


def torchrun(rank: int, local_rank: int, local_size: int) -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return dict(zip(names, map(str, (rank, 4, local_rank, local_size)), strict=True))


@scenario
def neighbours(rank: int, _: int) -> Any:
    return [layer_of(4, group_size=size)(shard(rank)) for size in (1, 2, 4)]


@scenario
def one_group_for_all_layers(rank: int, _: int) -> Any:
    """The list of the same ranks has it too."""
    pair = [0, 1] if rank < 2 else [2, 3]
    layer_of(4, group_size=2)(shard(rank))
    before = len(groups_of(pair))
    for layer in (layer_of(4, group_size=2), layer_of(4, process_group=pair)):
        layer(shard(rank))
    return len(groups_of(pair)) - before


@scenario
def layers_created_in_another_order(rank: int, _: int) -> Any:
    sizes = [2, 4, 1]
    order = sizes if rank % 2 else sizes[::-1]
    layers = {size: layer_of(4, group_size=size, name=f"of {size}") for size in order}
    return [layers[size](shard(rank)) for size in sizes]


@scenario
def every_way_to_a_group_size(rank: int, _: int) -> Any:
    x = shard(rank)
    lazy = LazySyncBatchNorm(dtype=torch.float64, group_size=2)
    converted = torch.nn.BatchNorm1d(4, dtype=torch.float64)
    convert_sync_batchnorm(converted, group_size=2)
    again = SyncBatchNorm.convert_sync_batchnorm(layer_of(4), group_size=2)
    y = sync_batch_norm(x, training=True, group_size=2)
    ys = [layer(x) for layer in (lazy, converted, again)]
    return [y, *ys]


@scenario
def copies_of_neighbours(rank: int, _: int) -> Any:
    layer = layer_of(4, group_size=2)
    layer(shard(rank))
    assert layer.__getstate__()["process_group"] == relative.GroupSize(2)
    copies = [copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    return [copied(shard(rank)) for copied in copies]


@scenario
def neighbours_after_their_group_was_destroyed(rank: int, _: int) -> Any:
    layer = layer_of(4, group_size=2)
    layer(shard(rank))
    destroy(*groups_of([0, 1] if rank < 2 else [2, 3]))
    return layer(shard(rank))


@scenario
def sizes_that_do_not_divide(rank: int, _: int) -> Any:
    layers = [layer_of(4, group_size=size) for size in (3, 8)]
    assert [layer.eval()(shard(rank)).shape for layer in layers] == [(3, 4)] * 2
    return [error_of(lambda layer=layer: layer.train()(shard(rank))) for layer in layers]


@scenario
def machines_by_exchange(rank: int, _: int) -> Any:
    """The ranks of a machine need not be neighbours."""
    with machines(rank, "abaa"):
        return [layer_of(4, process_group="node")(shard(rank)) for _ in range(2)]


@scenario
def machines_of_torchrun(rank: int, _: int) -> Any:
    """Two agents on one host are two nodes, as for torchrun."""
    with machines(rank, "aaaa", **torchrun(rank, rank % 2, 2)):
        return layer_of(4, process_group="node")(shard(rank))


@scenario
def environment_of_other_ranks(rank: int, _: int) -> Any:
    """A process that was renumbered, or started by one of torchrun's, is asked for its host."""
    with machines(rank, "aabb", **torchrun(3 - rank, 0, 1)):
        return layer_of(4, process_group="node")(shard(rank))


@scenario
def environment_that_contradicts_the_hosts(rank: int, _: int) -> Any:
    with machines(rank, "abcc", **torchrun(rank, rank % 2, 2)):
        layer = layer_of(4, process_group="node")
        return error_of(lambda: layer(shard(rank)))


@scenario
def dialects_of_a_machine(rank: int, _: int) -> Any:
    with machines(rank, "aabb"):
        layers = [
            paddle.SyncBatchNorm(4, process_group="node", dtype=torch.float64),
            mmcv.SyncBatchNorm(4, affine=False, group="node", dtype=torch.float64),
            megengine.SyncBatchNorm(4, group="node", dtype=torch.float64),
        ]
        ys = [layer(shard(rank)) for layer in layers]
        assert layers[1].group_size == 2
        return ys


@scenario
def dialects_of_a_size(rank: int, _: int) -> Any:
    options: dict[str, Any] = {"group_size": 2, "dtype": torch.float64}
    layers = [
        encoding.BatchNorm1d(4, **options),
        encoding.SyncBatchNorm(4, inplace=False, **options),
        encoding.DistSyncBatchNorm(4, **options),
        megengine.SyncBatchNorm(4, **options),
        mmcv.SyncBatchNorm(4, affine=False, **options),
        mxnet.SyncBatchNorm(4, epsilon=1e-5, num_devices=2, **options),
        paddle.SyncBatchNorm(4, **options),
    ]
    assert layers[4].group_size == 2
    x = shard(rank).reshape(3, 4, 1)
    return [layer(x.clone()).reshape(3, 4) for layer in layers]


@scenario
def this_machine(rank: int, size: int) -> Any:
    """Without patches: all ranks of the test run on it."""
    forget_machines(rank)
    layer = layer_of(4, process_group="node")
    y = layer(shard(rank))
    assert pickle.loads(pickle.dumps(layer)).process_group == "node"
    assert relative.ranks_of_node(rank, size) == list(range(size))
    return y
