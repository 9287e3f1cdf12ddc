"""What is measured: layers beside each other, and blocks of a network around them."""

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
class Counted:
    """One way to call a layer, whose operations are counted."""

    name: str
    dtype: torch.dtype = torch.float32
    momentum: float | None = 0.1
    # Kernels of ours in forward: float64 centres its variance between the two.
    forward_kernels: int = 2


COUNTED = (
    Counted("float32"),
    Counted("float32, `momentum=None`", momentum=None),
    Counted("float64", torch.float64, forward_kernels=3),
)
BACKWARD_KERNELS = 2
COUNTED_SHAPE = (4, 8, 6, 6)


@dataclasses.dataclass(frozen=True)
class Block:
    """A normalization and what follows it; each takes x and what is added to its output."""

    name: str
    torch: Callable[[int], nn.Module]
    ours: Callable[[int], nn.Module]
    adds: bool = False


class Followed(nn.Module):
    """torch's way: an operation each for the normalization, the addition and the activation."""

    def __init__(self, norm: nn.Module, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x)
        if residual is not None:
            y = y + residual
        return y if self.activation is None else self.activation(y)


def _fused(activation: str) -> Callable[[int], nn.Module]:
    return lambda channels: SyncBatchNorm(channels, activation=activation)


BLOCKS = (
    Block("normalization", nn.SyncBatchNorm, SyncBatchNorm),
    Block(
        "normalization, ReLU",
        lambda channels: Followed(nn.SyncBatchNorm(channels), nn.ReLU()),
        _fused("relu"),
    ),
    Block(
        "normalization, ReLU in place",
        lambda channels: Followed(nn.SyncBatchNorm(channels), nn.ReLU(inplace=True)),
        _fused("relu"),
    ),
    Block(
        "normalization, addition, ReLU",
        lambda channels: Followed(nn.SyncBatchNorm(channels), nn.ReLU()),
        _fused("relu"),
        adds=True,
    ),
    Block(
        "normalization, leaky ReLU in place",
        lambda channels: Followed(nn.SyncBatchNorm(channels), nn.LeakyReLU(inplace=True)),
        lambda channels: SyncBatchNorm(channels, activation="leaky_relu", in_place=True),
    ),
)
MEMORY_SHAPE = (8, 64, 28, 28)

# A convolutional network's layers from early to late, and a linear one.
TIMED_SHAPES = ((8, 64, 56, 56), (8, 256, 14, 14), (8, 512, 7, 7), (256, 1024))
HOST_SHAPE = (2, 8, 4, 4)


def made(kind: Callable[..., nn.Module], *arguments: Any, dtype: torch.dtype) -> nn.Module:
    """The layer with a weight and a bias that are not 1 and 0."""
    layer = kind(*arguments).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return layer


def values(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
