"""What every rank of test_compile_groups.py's world does: a step in eager mode and one compiled."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from inspection import Inspector
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from worlds import Scenario

from support.scenarios import error_of, scenario_of
from syncnorm.torch import SyncBatchNorm, sync_batch_norm

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)


def batch(rank: int, samples: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(100 + rank)
    samples = 3 + rank if samples is None else samples
    return torch.randn(samples, 5, 4, generator=generator, dtype=dtype)


def step(call: Callable[[Tensor], Any], model: nn.Module, x: Tensor) -> dict[str, Any]:
    """What one step leaves behind. x is a leaf, with a gradient or not."""
    y = call(x)
    y = torch.cat(y) if isinstance(y, tuple) else y
    if y.requires_grad:
        generator = torch.Generator().manual_seed(5)
        y.backward(torch.randn(y.shape, generator=generator, dtype=y.dtype))
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return {"y": y.detach(), "x": x.grad, **gradients, **buffers}


def both(model: nn.Module, x: Tensor, backend: Any = None, steps: int = 1) -> dict[str, Any]:
    """The steps of the model in eager mode, compiled, and what was in the graphs."""
    torch._dynamo.reset()
    inspector = Inspector()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend=backend or inspector)
    for _ in range(steps):
        leaves = [x.detach().clone().requires_grad_(x.requires_grad) for _ in range(2)]
        expected, got = step(model, model, leaves[0]), step(compiled, twin, leaves[1])
    return {
        "expected": expected,
        "got": got,
        "forward": inspector.forward,
        "backward": inspector.backward,
    }


@scenario
def one_layer(rank: int, _: int) -> Any:
    return both(SyncBatchNorm(5, activation="relu"), batch(rank).requires_grad_(), steps=2)


@scenario
def centred_in_a_sub_group(rank: int, size: int) -> Any:
    group = dist.new_group(list(range(size)))
    layer = SyncBatchNorm(5, process_group=group, dtype=torch.float64)
    return both(layer, batch(rank, dtype=torch.float64).requires_grad_())


class OfFunction(nn.Module):
    """sync_batch_norm as a module."""

    def __init__(self, **group: Any) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return sync_batch_norm(x, training=True, **self.group)


def compiled_first(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """As both, but the compiled model makes the first call, which creates the group."""
    torch._dynamo.reset()
    torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")(x.detach())
    return both(model, x)


@scenario
def neighbours(rank: int, size: int) -> Any:
    return compiled_first(SyncBatchNorm(5, group_size=size), batch(rank).requires_grad_())


@scenario
def each_rank_its_own_neighbour(rank: int, _: int) -> Any:
    return compiled_first(SyncBatchNorm(5, group_size=1), batch(rank).requires_grad_())


@scenario
def function_of_a_machine(rank: int, _: int) -> Any:
    return compiled_first(OfFunction(process_group="node"), batch(rank).requires_grad_())


@scenario
def list_of_ranks(rank: int, size: int) -> Any:
    layer = SyncBatchNorm(5, process_group=list(range(size)))
    return compiled_first(layer, batch(rank).requires_grad_())


@scenario
def no_samples_on_the_first_rank_of_a_mesh(rank: int, size: int) -> Any:
    mesh = init_device_mesh("cpu", (size,), mesh_dim_names=("data",))
    layer = SyncBatchNorm(5, process_group=mesh["data"])
    return both(layer, batch(rank, samples=4 * rank).requires_grad_())


@scenario
def only_the_first_rank_needs_gradients(rank: int, _: int) -> Any:
    layer, x = SyncBatchNorm(5), batch(rank)
    if rank == 0:
        x.requires_grad_()
    else:
        layer.requires_grad_(False)
    return both(layer, x)


@scenario
def no_rank_needs_gradients(rank: int, _: int) -> Any:
    with torch.no_grad():
        return both(SyncBatchNorm(5), batch(rank))


class Unused(nn.Module):
    """Its batch normalization serves for its running statistics alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = SyncBatchNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        self.norm(x)
        return x.tanh()


@scenario
def the_output_is_not_used(rank: int, _: int) -> Any:
    return both(Unused(), batch(rank).requires_grad_())


class Branches(nn.Module):
    """Two layers whose exchanges do not depend on each other; nothing else to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SyncBatchNorm(5, name="first")
        self.second = SyncBatchNorm(5, name="second")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


@scenario
def two_branches(rank: int, _: int) -> Any:
    return both(Branches(), batch(rank).requires_grad_())


@scenario
def inductor_two_branches(rank: int, _: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's own
        return both(Branches(), batch(rank).requires_grad_(), backend="inductor")


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv1d(5, 5, 1), SyncBatchNorm(5), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.inner, x, use_reentrant=False)
        return 2 * y


@scenario
def checkpointed(rank: int, _: int) -> Any:
    return both(Checkpointed(), batch(rank).requires_grad_())


@scenario
def evaluation_of_one_rank(rank: int, _: int) -> Any:
    return both(SyncBatchNorm(5).eval(), batch(rank)) if rank == 0 else None


class Wide(nn.Module):
    """With layers that fill more than one bucket of DistributedDataParallel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(5, 600, 1), SyncBatchNorm(600))
        self.second = nn.Sequential(nn.Conv1d(600, 600, 1), SyncBatchNorm(600))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y.sin()


@scenario
def distributed_data_parallel(rank: int, _: int) -> Any:
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")

    def trained(compiled: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        parallel = DistributedDataParallel(Wide(), bucket_cap_mb=1)
        model = torch.compile(parallel, backend=graphs) if compiled else parallel
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        for index in range(2):
            optimizer.zero_grad()
            model(batch(rank + 10 * index)).mean().backward()
            optimizer.step()
        return {name: tensor.clone() for name, tensor in parallel.state_dict().items()}

    expected, got = trained(compiled=False), trained(compiled=True)
    return {"expected": expected, "got": got, "graphs": graphs.frame_count}


@scenario
def different_layers(rank: int, _: int) -> Any:
    torch._dynamo.reset()
    layer = SyncBatchNorm(5, name=["encoder", "decoder"][rank])
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    return error_of(lambda: compiled(batch(rank)))


@scenario
def more_channels_than_a_frame_holds(rank: int, _: int) -> Any:
    generator = torch.Generator().manual_seed(rank)
    return both(SyncBatchNorm(1100), torch.randn(3 + rank, 1100, generator=generator))


@scenario
def the_first_rank_is_not_compiled(rank: int, _: int) -> Any:
    torch._dynamo.reset()
    layer = SyncBatchNorm(5 + rank)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = torch.randn(3, 5 + rank)
    return error_of(lambda: (compiled if rank else layer)(x))
