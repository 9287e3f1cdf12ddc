"""Define the benchmark's cases: layers, the blocks of a network around them, and input shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from syncnorm.torch import SyncBatchNorm

RANKS = 2
OPERATIONS = ("forward", "forward+backward")


@dataclasses.dataclass(frozen=True)
class CountedCase:
    """A layer configuration to count operations for.

    forward_kernels: syncnorm's kernels in forward; with centering, which float64 uses, 3.
    """

    name: str
    dtype: torch.dtype = torch.float32
    momentum: float | None = 0.1
    forward_kernels: int = 2


COUNTED_CASES = (
    CountedCase("float32"),
    CountedCase("float32, `momentum=None`", momentum=None),
    CountedCase("float64", torch.float64, forward_kernels=3),
)
BACKWARD_KERNELS = 2
COUNTED_SHAPE = (4, 8, 6, 6)


@dataclasses.dataclass(frozen=True)
class Block:
    """A normalization and the operations after it, as factories from the number of channels.

    has_residual: the block adds a second input to the normalized x.
    """

    name: str
    torch: Callable[[int], nn.Module]
    ours: Callable[[int], nn.Module]
    has_residual: bool = False


class UnfusedBlock(nn.Module):
    """Normalization, addition and activation as separate operations."""

    def __init__(self, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x)
        if residual is not None:
            y = y + residual
        z: Tensor = self.activation(y)
        return z


def _fused(activation: str) -> Callable[[int], nn.Module]:
    return lambda channels: SyncBatchNorm(channels, activation=activation)


BLOCKS = (
    Block("normalization", nn.SyncBatchNorm, SyncBatchNorm),
    Block(
        "normalization, ReLU",
        lambda channels: UnfusedBlock(nn.SyncBatchNorm(channels), nn.ReLU()),
        _fused("relu"),
    ),
    Block(
        "normalization, ReLU in place",
        lambda channels: UnfusedBlock(nn.SyncBatchNorm(channels), nn.ReLU(inplace=True)),
        _fused("relu"),
    ),
    Block(
        "normalization, addition, ReLU",
        lambda channels: UnfusedBlock(nn.SyncBatchNorm(channels), nn.ReLU()),
        _fused("relu"),
        has_residual=True,
    ),
    Block(
        "normalization, leaky ReLU in place",
        lambda channels: UnfusedBlock(nn.SyncBatchNorm(channels), nn.LeakyReLU(inplace=True)),
        lambda channels: SyncBatchNorm(channels, activation="leaky_relu", in_place=True),
    ),
)
MEMORY_SHAPE = (8, 64, 28, 28)

# The layers of a convolutional network from early to late, and a linear one.
TIMED_SHAPES = ((8, 64, 56, 56), (8, 256, 14, 14), (8, 512, 7, 7), (256, 1024))
HOST_SHAPE = (2, 8, 4, 4)


def make_layer(
    factory: Callable[..., nn.Module], *arguments: Any, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Return `factory(*arguments)` with random weight and bias instead of 1 and 0."""
    layer = factory(*arguments).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return layer


def make_x_and_dy(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return random x, which requires a gradient, and dy; the same on all ranks."""
    generator = torch.Generator().manual_seed(2)
    x, dy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    return x.requires_grad_(), dy
