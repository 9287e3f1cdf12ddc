"""Synchronized batch normalization in float64 torch operations, for values and gradients.

Written from the formulas; shares no code with the library. Autograd differentiates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Result:
    ys: list[Tensor]
    mean: Tensor
    var: Tensor
    count: int


def per_channel(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(1, -1, *[1] * (x.dim() - 2))


def normalize_shards(
    xs: Sequence[Tensor],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    weighting: str = "count",
    eps_mode: str = "add",
    activation: str = "identity",
    negative_slope: float = 0.01,
    masks: Sequence[Tensor] | None = None,
    residuals: Sequence[Tensor] | None = None,
) -> Result:
    xs = [x.double() for x in xs]
    counted = [torch.ones_like(x[:, :1]) for x in xs]
    if masks is not None:
        counted = [mask.double().unsqueeze(1) for mask in masks]
    mean, var, count = _moments(xs, counted, weighting)
    spread = var + eps if eps_mode == "add" else var.clamp(min=eps)
    ys = []
    for index, x in enumerate(xs):
        y = (x - per_channel(mean, x)) / per_channel(spread, x).sqrt()
        y = y if weight is None else y * per_channel(weight.double(), x)
        y = y if bias is None else y + per_channel(bias.double(), x)
        y = y if residuals is None else y + residuals[index].double()
        ys.append(activate(y, activation, negative_slope))
    return Result(ys, mean, var, count)


def activate(z: Tensor, activation: str = "identity", negative_slope: float = 0.01) -> Tensor:
    if activation == "elu":
        return torch.nn.functional.elu(z)
    slope = {"identity": 1.0, "relu": 0.0, "leaky_relu": negative_slope}[activation]
    return torch.where(z > 0, z, slope * z)


def _moments(
    xs: Sequence[Tensor], counted: Sequence[Tensor], weighting: str
) -> tuple[Tensor, Tensor, int]:
    counts = [int(c.sum()) for c in counted]
    weights = {
        "count": counts,
        "equal": [1] * len(xs),
        "batch": [x.shape[0] for x in xs],
    }[weighting]
    parts = [part for part in zip(xs, counted, counts, weights, strict=True) if part[2] > 0]
    total = sum(weight for *_, weight in parts)

    def average(values: list[Tensor]) -> Tensor:
        sums = [
            (weight / count) * (value * c).transpose(0, 1).flatten(1).sum(1)
            for value, (_, c, count, weight) in zip(values, parts, strict=True)
        ]
        return torch.stack(sums).sum(0) / total

    mean = average([x for x, *_ in parts])
    var = average([(x - per_channel(mean, x)) ** 2 for x, *_ in parts])
    return mean, var, sum(counts)
