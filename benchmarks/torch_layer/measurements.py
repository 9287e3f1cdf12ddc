"""Measure torch's layer and syncnorm's; every rank of the process group takes part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from syncnorm.bench.timing import Rounds, time_rounds, time_short_calls
from syncnorm.torch import SyncBatchNorm

from . import patches
from .baselines import LocalBatchNorm, NaiveSyncBatchNorm
from .cases import (
    BACKWARD_KERNELS,
    BLOCKS,
    COUNTED_CASES,
    COUNTED_SHAPE,
    HOST_SHAPE,
    MEMORY_SHAPE,
    Block,
    CountedCase,
    make_layer,
    make_x_and_dy,
)
from .counting import Counts, LiveMemory, OperationCounter, record_saved_tensors

Shape = tuple[int, ...]
LAYERS = {"torch": nn.SyncBatchNorm, "syncnorm": SyncBatchNorm}
MAX_RELATIVE_ERROR = 1e-5


def measure(shapes: Sequence[Shape], repeat: int) -> dict[str, Any]:
    """Run all measurements on a rank of the default process group.

    Args:
        shapes: Shapes of x for the CPU times.
        repeat: Rounds per timing.

    Returns:
        The results, as `report.format_markdown` reads them.
    """
    with patches.allow_cpu_tensors():
        check_equal_results()
        return {
            "counts": {case.name: count_operations(case) for case in COUNTED_CASES},
            "memory": {block.name: measure_memory(block) for block in BLOCKS},
            "saved": saved_bytes_per_channel(),
            "host": time_host(repeat),
            "seconds": {shape: time_layers(shape, repeat) for shape in shapes},
        }


def training_step(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], Any]:
    """Return a call that runs forward and backward and returns the output and the gradients."""
    leaves = (x, *layer.parameters())

    def step() -> Any:
        y = layer(x)
        return y, *torch.autograd.grad(y, leaves, dy)

    return step


def check_equal_results() -> None:
    """Raise RuntimeError unless both layers compute the same."""
    x, dy = make_x_and_dy(COUNTED_SHAPE)
    results = []
    for kind in LAYERS.values():
        layer = make_layer(kind, x.shape[1])
        with patches.KernelEmulation():
            outputs = training_step(layer, x, dy)()
        results.append([*outputs, layer.running_mean, layer.running_var])
    for got, expected in zip(*results, strict=True):
        error = float((got - expected).detach().abs().max() / expected.detach().abs().max())
        if not error <= MAX_RELATIVE_ERROR:  # also raises for NaN
            raise RuntimeError(
                f"torch's layer and syncnorm's differ by {error:.1e} of the largest value, expected"
                f" at most {MAX_RELATIVE_ERROR:.0e}"
            )


def count_operations(case: CountedCase) -> dict[str, dict[str, Counts]]:
    """Return the counts by layer and operation."""
    x, dy = make_x_and_dy(COUNTED_SHAPE, case.dtype)
    counts = {}
    for name, kind in LAYERS.items():
        layer = make_layer(kind, x.shape[1], 1e-5, case.momentum, dtype=case.dtype)
        counts[name] = {
            "forward": _counts_of(functools.partial(layer, x)),
            "forward+backward": _counts_of(training_step(layer, x, dy)),
        }
    # syncnorm's kernels bypass the dispatcher; tests/cpp/test_backend_cuda_streams.cpp counts them.
    counts["syncnorm"]["forward"].launches += case.forward_kernels
    counts["syncnorm"]["forward+backward"].launches += case.forward_kernels + BACKWARD_KERNELS
    return counts


def _counts_of(call: Callable[[], Any]) -> Counts:
    """Return the counts of the second call."""
    with patches.report_nccl_backend(), patches.KernelEmulation():
        call()
        with OperationCounter() as counter:
            call()
    return counter.counts


def measure_memory(block: Block) -> dict[str, dict[str, float]]:
    """Return, by layer, live bytes / bytes of x: after forward, and the peaks of both passes.

    Input and output are included.
    """
    return {
        "torch": _memory_of(make_layer(block.torch, MEMORY_SHAPE[1]), block.has_residual),
        "syncnorm": _memory_of(make_layer(block.ours, MEMORY_SHAPE[1]), block.has_residual),
    }


def _memory_of(layer: nn.Module, has_residual: bool) -> dict[str, float]:
    x, dy = make_x_and_dy(MEMORY_SHAPE)
    sources = [x, dy.clone().requires_grad_()] if has_residual else [x]

    def step() -> tuple[int, int, int]:
        with LiveMemory() as live:
            # Clone, so that the layer's inputs are made within this context.
            inputs = [source.clone() for source in sources]
            y = layer(*inputs)
            del inputs
            kept, peak = live.now, live.peak
            torch.autograd.grad(y, (*sources, *layer.parameters()), dy)
            return kept, peak, live.peak

    with patches.KernelEmulation():
        step()  # exclude what the first call allocates for later calls
        results = step()
    names = ("kept", "peak of forward", "peak of backward")
    return {name: n / x.nbytes for name, n in zip(names, results, strict=True)}


def saved_bytes_per_channel() -> dict[str, float]:
    """Return, by layer, the bytes saved for backward in addition to x and weight, per channel."""
    results = {}
    for name, kind in LAYERS.items():
        layer = make_layer(kind, MEMORY_SHAPE[1])
        x, _ = make_x_and_dy(MEMORY_SHAPE)
        with patches.KernelEmulation(), record_saved_tensors() as saved:
            layer(x)
        inputs = {tensor.data_ptr() for tensor in (x, *layer.parameters())}
        added = sum(tensor.nbytes for tensor in saved if tensor.data_ptr() not in inputs)
        results[name] = added / MEMORY_SHAPE[1]
    return results


def time_host(repeat: int) -> dict[str, Rounds]:
    """Time a call with almost nothing to compute and no communication, by operation and layer."""
    x, dy = make_x_and_dy(HOST_SHAPE)
    channels = HOST_SHAPE[1]
    layers = {name: kind(channels) for name, kind in LAYERS.items()}
    calls = {
        "forward": {name: functools.partial(layer, x) for name, layer in layers.items()},
        "forward+backward": {name: training_step(layer, x, dy) for name, layer in layers.items()},
    }
    with (
        patches.stub_collectives(),
        patches.report_nccl_backend(),
        patches.stub_kernels(channels),
    ):
        return {
            operation: time_short_calls(by_layer, repeat, **_RANK_HOOKS)
            for operation, by_layer in calls.items()
        }


def time_layers(shape: Shape, repeat: int) -> Rounds:
    """Time forward and backward on all ranks, by layer."""
    kinds = {"local": LocalBatchNorm, "naive": NaiveSyncBatchNorm, "syncnorm": SyncBatchNorm}
    return time_rounds(_training_steps(kinds, shape), repeat, **_RANK_HOOKS)


def time_without_group(shape: Shape, repeat: int) -> Rounds:
    """Time forward and backward in a process without a process group, by layer."""
    kinds = {"local": LocalBatchNorm, "syncnorm": SyncBatchNorm}
    return time_rounds(_training_steps(kinds, shape), repeat)


def _training_steps(
    kinds: dict[str, type[nn.Module]], shape: Shape
) -> dict[str, Callable[[], Any]]:
    x, dy = make_x_and_dy(shape)
    return {name: training_step(kind(shape[1]), x, dy) for name, kind in kinds.items()}


def _count_of_rank_0(count: int) -> int:
    """Return rank 0's count, so that all ranks make the same number of calls."""
    tensor = torch.tensor(count)
    dist.broadcast(tensor, 0)
    return int(tensor)


_RANK_HOOKS: dict[str, Callable[..., Any]] = {"barrier": dist.barrier, "agree": _count_of_rank_0}
