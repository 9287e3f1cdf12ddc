"""mmcv.ops.SyncBatchNorm in float64 NumPy, from what mmcv documents of it; nothing of this library.

In "default" the mean is that over the ranks of each rank's mean, and the variance that of each
rank's mean square deviation from it. In "N" the ranks count by their number of samples. Ranks
without data do not count. mmcv's own gradient of the input is inexact in "N" with unequal batches:
here it is the exact one of the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Forward:
    """shares: what one value of each rank counts in the mean. values: each rank's per channel."""

    ys: list[Array]
    norms: list[Array]
    mean: Array
    var: Array
    std: Array
    shares: list[float]
    values: list[int]


@dataclass
class Backward:
    """The gradients of weight and bias are the same on all ranks: the mean over the group."""

    dxs: list[Array]
    dweight: Array
    dbias: Array


def along(vector: Array, x: Array) -> Array:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def over_all(x: Array) -> Array:
    """The sum over samples and positions."""
    return x.sum(axis=(0, *range(2, x.ndim)))


def forward(
    xs: Sequence[Array],
    weight: Array | float = 1.0,
    bias: Array | float = 0.0,
    eps: float = 1e-5,
    stats_mode: str = "default",
) -> Forward:
    channels = xs[0].shape[1]
    values = [x[:, 0].size for x in xs]
    counts = [
        (x.shape[0] if stats_mode == "N" else 1) if n else 0
        for x, n in zip(xs, values, strict=True)
    ]
    whole = max(sum(counts), 1)

    def over_ranks(parts: Sequence[Array]) -> Array:
        means = [over_all(p) / max(n, 1) for p, n in zip(parts, values, strict=True)]
        return sum(m * count for m, count in zip(means, counts, strict=True)) / whole

    mean = over_ranks(xs)
    var = over_ranks([(x - along(mean, x)) ** 2 for x in xs])
    std = np.sqrt(var + eps)
    norms = [(x - along(mean, x)) / along(std, x) for x in xs]
    scale, shift = np.broadcast_to(weight, channels), np.broadcast_to(bias, channels)
    ys = [norm * along(scale, norm) + along(shift, norm) for norm in norms]
    shares = [count / whole / max(n, 1) for count, n in zip(counts, values, strict=True)]
    return Forward(ys, norms, mean, var, std, shares, values)


def backward(result: Forward, dys: Sequence[Array], weight: Array | float = 1.0) -> Backward:
    dbias = sum(over_all(dy) for dy in dys)
    dweight = sum(over_all(dy * norm) for dy, norm in zip(dys, result.norms, strict=True))
    dxs = []
    for dy, norm, share in zip(dys, result.norms, result.shares, strict=True):
        through_statistics = share * (along(dbias, norm) + norm * along(dweight, norm))
        dxs.append(along(weight / result.std, norm) * (dy - through_statistics))
    return Backward(dxs, dweight / len(dys), dbias / len(dys))


def running(
    result: Forward, rank: int, momentum: float, mean: Array, var: Array
) -> tuple[Array, Array]:
    """The running statistics of a rank after the step: with m of its own values times all ranks."""
    if not any(result.values):
        return mean, var
    m = result.values[rank] * len(result.values)
    unbiased = result.var * (m / (m - 1) if m > 1 else 1)
    return (
        (1 - momentum) * mean + momentum * result.mean,
        (1 - momentum) * var + momentum * unbiased,
    )
