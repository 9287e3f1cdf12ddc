"""What every rank of a world of four does with DTensors."""

from __future__ import annotations

import functools
import itertools
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import training_runs as runs
from scenarios_distributed import layer_of, shard
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from worlds import Scenario

from support.scenarios import error_of, scenario_of
from syncnorm.comm import from_callback
from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm, sync_batch_norm
from syncnorm.torch.groups import dtensor

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)

SAMPLES = [8, 7, 5, 2]  # over four ranks: even, uneven, one empty shard, two of them


@functools.cache
def line() -> DeviceMesh:
    return init_device_mesh("cpu", (4,), mesh_dim_names=("batch",))


@functools.cache
def square() -> DeviceMesh:
    """The ranks [[0, 1], [2, 3]]."""
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("batch", "other"))


def whole(first: int, samples: int = 7) -> Tensor:
    """The same on every rank."""
    return shard(first, (samples, 4, 3))


def placed(tensor: Tensor, mesh: DeviceMesh, *placements: Placement) -> DTensor:
    return distribute_tensor(tensor, mesh, placements)


def random_layer(**options: Any) -> SyncBatchNorm:
    layer = layer_of(4, **options)
    layer.weight.data, layer.bias.data = shard(30, (4,)), shard(31, (4,))
    return layer


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def step(layer: SyncBatchNorm, x: DTensor, dy: DTensor) -> dict[str, Tensor]:
    """All that one step of training makes, as it is on this rank."""
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    y.backward(dy)
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"y": y.detach(), "dx": leaf.grad, **gradients, **dict(layer.named_buffers())}


def title(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Of each DTensor its placements."""
    return {name: str(t.placements) for name, t in tensors.items() if isinstance(t, DTensor)}


@scenario
def sharded_on_the_batch(_: int, __: int) -> Any:
    """With a DTensor's parameters and running statistics."""
    mesh, results = line(), []
    for samples in SAMPLES:
        layer = distribute_module(random_layer(), mesh)
        x, dy = (placed(whole(first, samples), mesh, Shard(0)) for first in (0, 50))
        made = step(layer, x, dy)
        assert made["y"].shape == made["dx"].shape == x.shape
        assert made["y"].stride() == made["dx"].stride() == x.stride()
        results.append((gathered(made), title(made)))
    return results


@scenario
def plain_parameters(_: int, __: int) -> Any:
    """The parts of their gradients, one on each rank."""
    mesh = line()
    made = step(random_layer(), *(placed(whole(first), mesh, Shard(0)) for first in (0, 50)))
    assert not isinstance(made["weight"], DTensor)
    return gathered(made)


@scenario
def sums_of_gradients(_: int, __: int) -> Any:
    mesh, results = line(), []
    for reduction in ("sum", "mean"):
        layer = distribute_module(random_layer(grad_reduction=reduction), mesh)
        made = step(layer, *(placed(whole(first), mesh, Shard(0)) for first in (0, 50)))
        results.append((gathered(made), title(made)))
    return results


@scenario
def square_mesh(_: int, __: int) -> Any:
    """Divided over the first, over both, and over none."""
    mesh, results = square(), []
    for placements in itertools.product([Shard(0), Replicate()], repeat=2):
        layer = distribute_module(random_layer(), mesh)
        made = step(layer, *(placed(whole(first), mesh, *placements) for first in (0, 50)))
        results.append((gathered(made), title(made)))
    return results


@scenario
def channels_last(_: int, __: int) -> Any:
    mesh, layer = line(), random_layer()
    x = shard(0, (7, 4, 3, 3)).to(memory_format=torch.channels_last)
    local = x.chunk(4)[mesh.get_local_rank()]
    given = DTensor.from_local(local, mesh, [Shard(0)], shape=x.shape, stride=x.stride())
    y = layer(given)
    assert y.stride() == x.stride()
    assert y.to_local().is_contiguous(memory_format=torch.channels_last)
    return y.full_tensor()


@scenario
def residual_mask_and_activation(_: int, __: int) -> Any:
    mesh = line()
    layer = distribute_module(random_layer(activation="leaky_relu"), mesh)
    x, residual, dy = (placed(whole(first), mesh, Shard(0)) for first in (0, 20, 50))
    leaves = [t.detach().requires_grad_() for t in (x, residual)]
    mask = placed(shard(40, (7, 3)) > -0.5, mesh, Shard(0))
    y = layer(*leaves, mask)
    y.backward(dy)
    tensors = (y.detach(), *(leaf.grad for leaf in leaves), layer.weight.grad, layer.bias.grad)
    return [tensor.full_tensor() for tensor in tensors]


@scenario
def evaluation(_: int, __: int) -> Any:
    """With running statistics, and without: then with those of the whole DTensor."""
    mesh, results = line(), []
    for tracked in (True, False):
        layer = random_layer(track_running_stats=tracked)
        if tracked:
            layer.running_mean.copy_(shard(32, (4,)))
        distribute_module(layer, mesh).eval()
        made = step(layer, *(placed(whole(first), mesh, Shard(0)) for first in (0, 50)))
        results.append((gathered(made), title(made)))
    return results


@scenario
def training_of_a_network(_: int, __: int) -> Any:
    mesh = line()
    model = distribute_module(convert_sync_batchnorm(runs.linear_network(torch.float64)), mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for x, target in runs.batches((8,), 10, torch.float64):
        optimizer.zero_grad()
        output = model(placed(x, mesh, Shard(0)))
        targets = placed(target, mesh, Shard(0))  # whose mean DTensors cannot take where uneven
        (nn.functional.cross_entropy(output, targets, reduction="sum") / 10).backward()
        optimizer.step()
    return gathered(model.state_dict())


@scenario
def tensors_that_are_on_their_way(_: int, size: int) -> Any:
    """An input, and a gradient, whose communication has begun and may not be done."""
    mesh = line()
    pending, dy = [
        DTensor.from_local(whole(first, 8) / size, mesh, [Partial()]) for first in (0, 50)
    ]
    moved = pending.redistribute(placements=[Shard(0)], async_op=True)
    assert isinstance(moved.to_local(), AsyncCollectiveTensor)
    y = random_layer()(moved)

    x = placed(whole(0, 8), mesh, Shard(0)).requires_grad_()
    random_layer()(x).redistribute(placements=[Replicate()], async_op=True).backward(dy)
    return [y.full_tensor().detach(), x.grad.full_tensor()]


@scenario
def functional(_: int, __: int) -> Any:
    return sync_batch_norm(placed(whole(0), line(), Shard(0)), training=True).full_tensor()


@scenario
def groups_that_are_given(rank: int, _: int) -> Any:
    """Those of the DTensor's ranks are used, others are refused."""
    mesh, other = square(), [dist.new_group([0, 3]), dist.new_group([1, 2])][rank in (1, 2)]
    x = placed(whole(0), mesh, Shard(0), Replicate())
    fitting = layer_of(4, process_group=mesh["batch"])(x).full_tensor()

    def add(src: memoryview, dst: memoryview) -> None:
        raise AssertionError("no call")

    misfits = [other, dist.group.WORLD, from_callback(rank, 4, add)]
    return fitting, [
        error_of(lambda group=group: layer_of(4, process_group=group)(x)) for group in misfits
    ]


@scenario
def no_group_of_two_dimensions(_: int, __: int) -> Any:
    x = placed(whole(0), square(), Shard(0), Shard(0))
    with mock.patch.object(dtensor, "groups_of", return_value=[]):
        return error_of(lambda: layer_of(4)(x))


@scenario
def refusals(rank: int, _: int) -> Any:
    mesh = line()
    x = placed(whole(0, 8), mesh, Shard(0))
    plain = whole(0, 8)
    mask = torch.ones(8, 3, dtype=torch.bool)
    pending = DTensor.from_local(plain, mesh, [Partial()])
    distributed = distribute_module(layer_of(4), mesh)
    elsewhere = distribute_module(layer_of(4), square())
    sharded = layer_of(4)
    sharded.weight = nn.Parameter(placed(sharded.weight.data, mesh, Shard(0)))
    calls = {
        "channels": lambda: layer_of(4)(placed(plain, mesh, Shard(1))),
        "partial": lambda: layer_of(4)(pending),
        "plain input": lambda: distributed(plain),
        "plain input in evaluation": lambda: distributed.eval()(plain),
        "other mesh": lambda: elsewhere(x),
        "sharded weight": lambda: sharded(x),
        "plain residual": lambda: layer_of(4)(x, plain),
        "replicated residual": lambda: layer_of(4)(x, placed(plain, mesh, Replicate())),
        "plain mask": lambda: layer_of(4)(x, mask=mask),
    }
    return {name: error_of(call) for name, call in calls.items()}


@scenario
def rank_outside_the_mesh(rank: int, _: int) -> Any:
    mesh = DeviceMesh("cpu", [0, 1])
    x = distribute_tensor(whole(0), mesh, [Shard(0)])
    return layer_of(4)(x).full_tensor() if rank < 2 else error_of(lambda: layer_of(4)(x))
