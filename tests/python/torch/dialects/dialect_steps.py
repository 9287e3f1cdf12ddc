"""Steps of training of a layer, and how far they may be from float64 formulas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from closeness import assert_rounded
from torch import Tensor, nn

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "equal": [(3, 4, 2, 3)] * 2,
    "unequal": [(5, 4, 2), (1, 4, 6), (2, 4, 3)],
    "unequal in 2D": [(1, 4), (6, 4), (2, 4), (3, 4)],
    "one empty": [(4, 4, 2, 2), (0, 4, 2, 2), (2, 4, 3, 1)],
    "all empty": [(0, 4, 3), (2, 4, 0)],
}
STEPS, RATE = 3, 0.1


@dataclass
class Batch:
    """What the ranks are given in one step, exact in float32."""

    xs: list[np.ndarray]
    dys: list[np.ndarray]


def batches(shapes: Sequence[tuple[int, ...]], steps: int = STEPS, seed: int = 3) -> list[Batch]:
    numbers = np.random.default_rng(seed)

    def arrays(scale: float, shift: float) -> list[np.ndarray]:
        drawn = [numbers.normal(size=shape) * scale + shift for shape in shapes]
        return [each.astype(np.float32).astype(float) for each in drawn]

    return [Batch(arrays(2, 1), arrays(1, 0.2)) for _ in range(steps)]


def parameters(seed: int = 4, channels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias, exact in float32."""
    numbers = np.random.default_rng(seed)
    drawn = numbers.uniform(-2, 2, size=(2, channels)).astype(np.float32).astype(float)
    return drawn[0], drawn[1]


def set_parameters(layer: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))


def descend(layer: nn.Module) -> None:
    """Move the parameters against their gradients."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.sub_(RATE * parameter.grad)


@dataclass
class Got:
    """What a rank has after a step."""

    y: Tensor
    dx: Tensor
    dweight: Tensor
    dbias: Tensor
    running_mean: Tensor
    running_var: Tensor


def train(layer: nn.Module, data: Sequence[tuple[np.ndarray, np.ndarray]], **how: Any) -> list[Got]:
    """Steps on these pairs of x and dy, after which weight and bias move against their gradients.

    how: the dtype of x, and whether it is channels_last.
    """
    steps = []
    for x, dy in data:
        input = torch.tensor(x, dtype=how.get("dtype", torch.float64))
        if how.get("channels_last"):
            input = input.contiguous(memory_format=torch.channels_last)
        input.requires_grad_()
        layer.zero_grad()
        y = layer(input)
        y.backward(torch.tensor(dy, dtype=input.dtype))
        assert y.stride() == input.stride()
        gradients = [layer.weight.grad.clone(), layer.bias.grad.clone()]
        buffers = [layer.running_mean.clone(), layer.running_var.clone()]
        steps.append(Got(y.detach(), input.grad, *gradients, *buffers))
        descend(layer)
    return steps


@dataclass
class Expected:
    """What all ranks should have after a step; each array by rank.

    norms: the normalized input. scale: (1 + |weight|)/std, as the weight is rounded like 1 too.
    shares: what one value of each rank counts in the mean.
    """

    ys: list[np.ndarray]
    dxs: list[np.ndarray]
    dweights: list[np.ndarray]
    dbiases: list[np.ndarray]
    running: list[tuple[np.ndarray, np.ndarray]]
    norms: list[np.ndarray]
    scale: np.ndarray
    shares: list[float]


def assert_step(got: Got, expected: Expected, batch: Batch, rank: int, k: float = 16) -> None:
    """Every number of this rank, by the rounding of what is added up for it."""
    dy, norm, y = np.abs(batch.dys[rank]), np.abs(expected.norms[rank]), expected.ys[rank]

    def row(vector: np.ndarray) -> np.ndarray:
        return vector.reshape(-1, *[1] * (y.ndim - 2))

    def summed(values: Sequence[np.ndarray]) -> np.ndarray:
        return sum(v.sum(axis=(0, *range(2, v.ndim))) for v in values)

    sizes = [np.abs(each) for each in batch.dys]
    sum_dy = summed(sizes)
    sum_norm = summed([d * (1 + np.abs(n)) for d, n in zip(sizes, expected.norms, strict=True)])
    through = expected.shares[rank] * (row(sum_dy) + (1 + norm) * row(sum_norm))
    largest = np.abs(y) + row(expected.scale) + 2
    (mean, var) = expected.running[rank]
    for name, exact, terms in [
        ("y", y, largest),
        ("dx", expected.dxs[rank], row(expected.scale) * (dy + through)),
        ("dweight", expected.dweights[rank], sum_norm),
        ("dbias", expected.dbiases[rank], sum_dy),
        ("running_mean", mean, np.abs(mean) + 1),
        ("running_var", var, var),
    ]:
        try:
            assert_rounded(getattr(got, name), torch.tensor(exact), torch.tensor(terms), k)
        except AssertionError as error:
            raise AssertionError(f"{name} of rank {rank}: {error}") from None
