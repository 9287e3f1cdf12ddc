"""The measurements that every rank takes part in, each of torch's layer and of this library's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from syncnorm.bench.measure import interleaved
from syncnorm.torch import SyncBatchNorm

from . import theirs
from .cases import (
    BACKWARD_KERNELS,
    BLOCKS,
    COUNTED,
    COUNTED_SHAPE,
    HOST_SHAPE,
    MEMORY_SHAPE,
    Block,
    Counted,
    made,
    values,
)
from .clock import free_collectives, seconds_of
from .counting import Counter, Counts, LiveMemory, saved_bytes
from .naive import NaiveSyncBatchNorm

Shape = tuple[int, ...]
DISAGREEMENT = 1e-5


def measure(shapes: Sequence[Shape], repeat: int) -> dict[str, Any]:
    """Everything, on a rank of the default group; the times of calls on these shapes."""
    with theirs.cpu_accepted():
        check_agreement()
        return {
            "counts": {case.name: count(case) for case in COUNTED},
            "memory": {block.name: memory(block) for block in BLOCKS},
            "saved": saved_per_channel(),
            "host": host_seconds(repeat),
            "seconds": {shape: layer_seconds(shape, repeat) for shape in shapes},
        }


def training_step(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], Any]:
    """Forward and backward; returns the output and the gradients."""
    leaves = (x, *layer.parameters())

    def step() -> Any:
        y = layer(x)
        return y, *torch.autograd.grad(y, leaves, dy)

    return step


def check_agreement() -> None:
    """Raise RuntimeError unless the layers compute the same: else there is nothing to compare."""
    x, dy = values(COUNTED_SHAPE, 2).requires_grad_(), values(COUNTED_SHAPE, 3)
    channels = x.shape[1]
    results = []
    for kind in (nn.SyncBatchNorm, SyncBatchNorm):
        layer = made(kind, channels, dtype=x.dtype)
        with theirs.Emulation():
            outputs = training_step(layer, x, dy)()
        results.append([*outputs, layer.running_mean, layer.running_var])
    for got, expected in zip(*results, strict=True):
        error = float((got - expected).detach().abs().max() / expected.detach().abs().max())
        if not error <= DISAGREEMENT:  # nor NaN
            raise RuntimeError(
                f"torch's layer and this one differ by {error:.1e} of the largest value, expected"
                f" at most {DISAGREEMENT:.0e}"
            )


def count(case: Counted) -> dict[str, dict[str, Counts]]:
    """By layer and operation."""
    x = values(COUNTED_SHAPE, 2, case.dtype).requires_grad_()
    dy = values(COUNTED_SHAPE, 3, case.dtype)
    counts = {}
    for name, kind in (("torch", nn.SyncBatchNorm), ("syncnorm", SyncBatchNorm)):
        layer = made(kind, x.shape[1], 1e-5, case.momentum, dtype=case.dtype)
        counts[name] = {
            "forward": counted(functools.partial(layer, x)),
            "forward+backward": counted(training_step(layer, x, dy)),
        }
    # The library's kernels do not pass the dispatcher: tests/cpp/test_backend_cuda_streams.cpp.
    counts["syncnorm"]["forward"].launches += case.forward_kernels
    counts["syncnorm"]["forward+backward"].launches += case.forward_kernels + BACKWARD_KERNELS
    return counts


def counted(call: Callable[[], Any]) -> Counts:
    """Of a call that is not the first."""
    with theirs.as_over_nccl(), theirs.Emulation():
        call()
        with Counter() as counter:
            call()
    return counter.counts


def memory(block: Block) -> dict[str, dict[str, float]]:
    """Bytes at the end of forward and at most, input and output included, over those of x."""
    return {
        name: _memory_of(made(kind, MEMORY_SHAPE[1], dtype=torch.float32), block.adds)
        for name, kind in (("torch", block.torch), ("syncnorm", block.ours))
    }


def _memory_of(layer: nn.Module, adds: bool) -> dict[str, float]:
    sources = [values(MEMORY_SHAPE, seed).requires_grad_() for seed in ((2, 4) if adds else (2,))]
    dy = values(MEMORY_SHAPE, 3)

    def step() -> tuple[int, int, int]:
        with LiveMemory() as live:
            # Made by the layers in front, who do not keep what they made.
            inputs = [source.clone() for source in sources]
            y = layer(*inputs)
            del inputs
            kept, peak = live.now, live.peak
            torch.autograd.grad(y, (*sources, *layer.parameters()), dy)
            return kept, peak, live.peak

    with theirs.Emulation():
        step()  # what is kept for every call to come is not counted
        bytes_of = step()
    names = ("kept", "peak of forward", "peak of backward")
    return {name: n / dy.nbytes for name, n in zip(names, bytes_of, strict=True)}


def saved_per_channel() -> dict[str, float]:
    """Bytes saved for backward beside x and weight, over the number of channels."""
    found = {}
    for name, kind in (("torch", nn.SyncBatchNorm), ("syncnorm", SyncBatchNorm)):
        layer = made(kind, MEMORY_SHAPE[1], dtype=torch.float32)
        x = values(MEMORY_SHAPE, 2).requires_grad_()
        kept: list[int] = []
        own = {x.data_ptr(), *(parameter.data_ptr() for parameter in layer.parameters())}

        def note(tensor: Tensor, own: set[int] = own, kept: list[int] = kept) -> None:
            if tensor.data_ptr() not in own:
                kept.append(tensor.nbytes)

        with theirs.Emulation(), saved_bytes(note):
            layer(x)
        found[name] = sum(kept) / MEMORY_SHAPE[1]
    return found


def host_seconds(repeat: int) -> dict[str, dict[str, float]]:
    """Of a call on a tensor with next to nothing to compute, without the exchange."""
    x, dy = values(HOST_SHAPE, 2).requires_grad_(), values(HOST_SHAPE, 3)
    channels = HOST_SHAPE[1]
    torch_layer, ours = nn.SyncBatchNorm(channels), SyncBatchNorm(channels)
    with free_collectives(), theirs.as_over_nccl(), theirs.without_kernels(channels):
        return {
            "forward": seconds_of(
                {"torch": lambda: torch_layer(x), "syncnorm": lambda: ours(x)}, repeat
            ),
            "forward+backward": seconds_of(
                {
                    "torch": training_step(torch_layer, x, dy),
                    "syncnorm": training_step(ours, x, dy),
                },
                repeat,
            ),
        }


class LocalBatchNorm(NaiveSyncBatchNorm):
    """torch's batch norm of this rank alone."""

    def forward(self, input: Tensor) -> Tensor:
        return batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )


def layer_seconds(shape: Shape, repeat: int) -> dict[str, float]:
    """Forward and backward over gloo."""
    kinds = {"local": LocalBatchNorm, "naive": NaiveSyncBatchNorm, "syncnorm": SyncBatchNorm}
    return seconds_of(_steps(kinds, shape), repeat)


def alone_seconds(shape: Shape, repeat: int) -> dict[str, float]:
    """Forward and backward in a process without a group."""
    steps = _steps({"local": LocalBatchNorm, "syncnorm": SyncBatchNorm}, shape)
    timing = interleaved(steps["local"], steps["syncnorm"], repeat)
    return {"local": timing.torch, "syncnorm": timing.ours}


def _steps(kinds: dict[str, type[nn.Module]], shape: Shape) -> dict[str, Callable[[], Any]]:
    x, dy = values(shape, 2).requires_grad_(), values(shape, 3)
    return {name: training_step(kind(shape[1]), x, dy) for name, kind in kinds.items()}
