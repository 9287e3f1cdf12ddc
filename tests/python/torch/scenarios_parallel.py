"""What every rank of test_parallel.py's world of two does: DDP and FSDP around our layers."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import training_runs as runs
from scenarios_distributed import shard
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor, Shard, distribute_module
from torch.nn.parallel import DistributedDataParallel
from worlds import Scenario

from support.scenarios import scenario_of
from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm
from syncnorm.torch.groups.pickling import keep

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)

SIZES = runs.UNEQUAL[2]
IMAGES = (3, 9, 9)

# Of mixed precision: parameters in 16 bits, gradients summed in 32.
SHORT, SUMS = torch.bfloat16, torch.float32


class TwoBranches(nn.Module):
    """Of which a pass uses one, by turns."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([runs.linear_network(torch.float64) for _ in range(2)])
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.branches[self.passes % 2](x)


def accumulate(
    model: nn.Module,
    data: Sequence[tuple[Tensor, Tensor]],
    mine: slice = slice(None),
    *,
    scale: float = 1.0,
    quiet: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    """SGD whose every step has the gradients of two batches, the first of them taken quietly."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for first, second in zip(data[0::2], data[1::2], strict=False):
        optimizer.zero_grad()
        for (x, target), context in ((first, quiet), (second, contextlib.nullcontext)):
            with context():
                output = model(x[mine])
                loss = nn.functional.cross_entropy(output, target[mine], reduction="sum")
                (scale * loss / len(target)).backward()
        optimizer.step()


@functools.cache
def line() -> DeviceMesh:
    return init_device_mesh("cpu", (2,))


def train_part(model: nn.Module, rank: int, dtype: torch.dtype, shape: Sequence[int]) -> None:
    data = runs.batches(shape, sum(SIZES), dtype)
    runs.train(model, data, runs.part(SIZES, rank), scale=2.0)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in model.state_dict().items()
    }


@scenario
def ddp_static_graph(rank: int, _: int) -> Any:
    model = convert_sync_batchnorm(runs.convolutional_network(torch.float64))
    train_part(DistributedDataParallel(model, static_graph=True), rank, torch.float64, IMAGES)
    return model.state_dict()


@scenario
def ddp_accumulation(rank: int, _: int) -> Any:
    results = []
    for static_graph in (False, True):
        model = convert_sync_batchnorm(runs.linear_network(torch.float64))
        parallel = DistributedDataParallel(model, static_graph=static_graph)
        data, mine = runs.batches((8,), sum(SIZES), torch.float64), runs.part(SIZES, rank)
        runs.train(parallel, data[:1], mine, scale=2.0)  # what a static graph is learned from
        accumulate(parallel, data[1:], mine, scale=2.0, quiet=parallel.no_sync)
        results.append(model.state_dict())
    return results


@scenario
def ddp_unused_parameters(rank: int, _: int) -> Any:
    model = convert_sync_batchnorm(TwoBranches())
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    train_part(parallel, rank, torch.float64, (8,))
    return model.state_dict()


@scenario
def ddp_with_batches_on_one_rank_only(rank: int, _: int) -> Any:
    """A rank whose data has come to its end goes on with empty batches."""
    model = convert_sync_batchnorm(runs.linear_network(torch.float64))
    data = runs.batches((8,), 6, torch.float64)
    parallel = DistributedDataParallel(model)
    runs.train(parallel, data[:3], runs.part([2, 4], rank), scale=2.0)
    runs.train(parallel, data[3:], runs.part([6, 0], rank), scale=2.0)
    return model.state_dict()


def fully_sharded(model: nn.Module, by_layer: bool, **options: Any) -> nn.Module:
    if by_layer:
        for layer in model:
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=line(), **options)
    return fully_shard(model, mesh=line(), **options)


@scenario
def fsdp2(rank: int, _: int) -> Any:
    """Layer by layer, and as a whole."""
    results = []
    for by_layer in (True, False):
        model = convert_sync_batchnorm(runs.convolutional_network(torch.float64))
        train_part(fully_sharded(model, by_layer), rank, torch.float64, IMAGES)
        results.append(whole_state(model))
    return results


@scenario
def fsdp1(rank: int, _: int) -> Any:
    """With its flat parameters, and with the original ones."""
    results = []
    for original in (False, True):
        model = convert_sync_batchnorm(runs.convolutional_network(torch.float64))
        parallel = FullyShardedDataParallel(
            model, device_id=torch.device("cpu"), use_orig_params=original
        )
        train_part(parallel, rank, torch.float64, IMAGES)
        with FullyShardedDataParallel.summon_full_params(parallel):
            results.append({name: t.clone() for name, t in model.state_dict().items()})
    return results


def one_layer() -> SyncBatchNorm:
    layer = SyncBatchNorm(4)
    layer.weight.data, layer.bias.data = shard(30, (4,)).float(), shard(31, (4,)).float()
    return layer


def mixed_step(model: nn.Module, layer: SyncBatchNorm, rank: int) -> dict[str, Tensor]:
    """One step on float32 input, all but the gradients of the parameters."""
    x = shard(rank, (3 + rank, 4, 5)).float().requires_grad_()
    y = model(x)
    y.backward(shard(50 + rank, tuple(x.shape)).to(y.dtype))
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    return {"y": y.detach(), "dx": x.grad, **buffers}


@scenario
def fsdp2_mixed_precision(rank: int, _: int) -> Any:
    """With the input cast to 16 bits, and left as it is."""
    results = []
    for cast in (True, False):
        layer = one_layer()
        policy = MixedPrecisionPolicy(
            param_dtype=SHORT, reduce_dtype=SUMS, cast_forward_inputs=cast
        )
        fully_shard(layer, mesh=line(), mp_policy=policy)
        made = mixed_step(layer, layer, rank)
        gradients = {name: p.grad.full_tensor() for name, p in layer.named_parameters()}
        results.append({**made, **gradients})
    return results


@scenario
def fsdp1_mixed_precision(rank: int, _: int) -> Any:
    """With running statistics in 32 bits, and in 16."""
    results = []
    for buffers in (torch.float32, SHORT):
        layer = one_layer()
        parallel = FullyShardedDataParallel(
            layer,
            device_id=torch.device("cpu"),
            use_orig_params=True,
            mixed_precision=MixedPrecision(SHORT, SUMS, buffers),
        )
        made = mixed_step(parallel, layer, rank)
        with FullyShardedDataParallel.summon_full_params(parallel, with_grads=True):
            gradients = {name: p.grad.clone() for name, p in layer.named_parameters()}
        results.append({**made, **gradients})
    return results


@scenario
def fsdp1_wraps_layers_by_itself(rank: int, _: int) -> Any:
    """What it warns of, and the dtypes of the layers' weight, running mean and output."""
    model, seen = convert_sync_batchnorm(runs.convolutional_network(torch.float32)), []

    def look(layer: SyncBatchNorm, _: Any, y: Tensor) -> None:
        seen.append([str(t.dtype) for t in (layer.weight, layer.running_mean, y)])

    for layer in model:
        if isinstance(layer, SyncBatchNorm):
            layer.register_forward_hook(look)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parallel = FullyShardedDataParallel(
            model,
            device_id=torch.device("cpu"),
            use_orig_params=True,
            auto_wrap_policy=ModuleWrapPolicy({nn.Conv2d}),
            mixed_precision=MixedPrecision(SHORT, SUMS, SHORT),
        )
    train_part(parallel, rank, torch.float32, IMAGES)
    return [str(warning.message) for warning in caught], seen


@scenario
def fsdp2_saves_and_loads(rank: int, _: int) -> Any:
    """Running statistics in a sharded model's state dict, which goes into one process's layer."""
    model = convert_sync_batchnorm(runs.linear_network(torch.float64))
    fully_sharded(model, by_layer=False)
    train_part(model, rank, torch.float64, (8,))
    plain = runs.linear_network(torch.float64)
    plain.load_state_dict(whole_state(model))
    x = runs.batches((8,), 4, torch.float64)[0][0]
    return [evaluated.eval()(x).detach() for evaluated in (model, plain)]


@scenario
def compiled(rank: int, _: int) -> Any:
    """With a mesh dimension, a group that is found again while compiling, and for a DTensor."""
    mesh, x = line(), shard(rank)
    layers = [SyncBatchNorm(4, dtype=torch.float64, process_group=group) for group in (mesh, None)]
    layers[1].process_group = keep(mesh)
    ys = [torch.compile(layer, fullgraph=True, backend="aot_eager")(x) for layer in layers]
    assert layers[1].process_group is mesh.get_group()

    layer = distribute_module(SyncBatchNorm(4, dtype=torch.float64), mesh)
    given = DTensor.from_local(x, mesh, [Shard(0)]).requires_grad_()
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(given)
    y.backward(DTensor.from_local(shard(50 + rank), mesh, [Shard(0)]))
    return ys, [t.full_tensor() for t in (y, given.grad, layer.weight.grad, layer.running_var)]
