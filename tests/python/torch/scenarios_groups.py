"""What every rank of a world of four does about the groups that a layer may be given."""

from __future__ import annotations

import copy
import functools
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from scenarios_distributed import layer_of, shard
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from worlds import Scenario

from support.scenarios import error_of, scenario_of
from syncnorm import _core
from syncnorm.torch import nccl_communicator, sync_batch_norm

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)


@functools.cache
def two_by_two() -> DeviceMesh:
    """The ranks [[0, 1], [2, 3]]."""
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))


@scenario
def mesh_dimensions(rank: int, _: int) -> Any:
    mesh = two_by_two()
    return {
        name: layer_of(4, process_group=mesh[name])(shard(rank)) for name in ("rows", "columns")
    }


@scenario
def whole_mesh(rank: int, size: int) -> Any:
    return layer_of(4, process_group=init_device_mesh("cpu", (size,)))(shard(rank))


@scenario
def function_over_a_mesh_dimension(rank: int, _: int) -> Any:
    return sync_batch_norm(shard(rank), training=True, process_group=two_by_two()["columns"])


@scenario
def copies_in_a_mesh_dimension(rank: int, _: int) -> Any:
    layer = layer_of(4, process_group=two_by_two()["columns"])
    copies = [copy.copy(layer), copy.deepcopy(layer)]
    assert all(copied.process_group is layer.process_group for copied in copies)
    return [copied(shard(rank)) for copied in copies]


@scenario
def mesh_of_two_dimensions(rank: int, _: int) -> Any:
    named, unnamed = two_by_two(), init_device_mesh("cpu", (2, 2))
    return [
        error_of(lambda mesh=mesh: layer_of(4, process_group=mesh)(shard(rank)))
        for mesh in (named, unnamed)
    ]


@scenario
def mesh_of_other_ranks(rank: int, _: int) -> Any:
    layer = layer_of(4, process_group=DeviceMesh("cpu", [0, 1]))
    if rank < 2:
        return layer(shard(rank))
    return error_of(lambda: layer(shard(rank)))


@scenario
def evaluation_needs_no_group(rank: int, _: int) -> Any:
    """Whatever is in its place."""
    layers = [
        layer_of(4, process_group=group)
        for group in (two_by_two(), DeviceMesh("cpu", [0]), dist.new_group([0]), "none")
    ]
    return [layer.eval()(shard(rank)) for layer in layers]


@scenario
def nccl_communicator_of_a_mesh_dimension(rank: int, _: int) -> Any:
    """The place in its group that the creation of the communicator is given."""
    with mock.patch.multiple(
        _core,
        nccl_unique_id=lambda: bytes(128),
        nccl_communicator=lambda _, *place: list(place),
    ):
        return nccl_communicator(two_by_two()["rows"], rank)


@scenario
def what_is_no_group(rank: int, _: int) -> Any:
    return [
        error_of(lambda group=group: layer_of(4, process_group=group)(shard(rank)))
        for group in ("world", 3, torch.ones(2))
    ]
