"""What one call of the layer costs where there is next to nothing to compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

import syncbn.torch

from .cases import TINY_SHAPE
from .measure import Timing, interleaved


@dataclasses.dataclass(frozen=True)
class Overhead:
    """One call on a tensor of TINY_SHAPE, beside torch's own BatchNorm2d; one thread."""

    forward: Timing
    both: Timing  # forward+backward


def measure_overhead(repeat: int) -> Overhead:
    torch.set_num_threads(1)
    channels = TINY_SHAPE[1]
    theirs, ours = nn.BatchNorm2d(channels), syncbn.torch.SyncBatchNorm(channels)
    x = torch.randn(TINY_SHAPE, requires_grad=True)
    dy = torch.randn(TINY_SHAPE)
    return Overhead(
        forward=interleaved(lambda: theirs(x), lambda: ours(x), repeat),
        both=interleaved(_training_step(theirs, x, dy), _training_step(ours, x, dy), repeat),
    )


def _training_step(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    leaves = (x, *layer.parameters())
    return lambda: torch.autograd.grad(layer(x), leaves, dy)
