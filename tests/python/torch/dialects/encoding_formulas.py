"""PyTorch-Encoding's batch normalization in float64 NumPy; nothing of this library.

As its functions are documented: sums and sums of squares of every device are added up, batchnorm
is a function of input, gamma, beta, mean and std, and the gradients of mean and std of all devices
are added up and go back through E[x] and E[x^2].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Forward:
    """ex, exs: the means of x and of x^2 over all devices; count: of how many values."""

    ys: list[Array]
    norms: list[Array]
    ex: Array
    exs: Array
    std: Array
    count: int


@dataclass
class Backward:
    """dgammas, dbetas: what comes from each device."""

    dxs: list[Array]
    dgammas: list[Array]
    dbetas: list[Array]


@dataclass
class Gradients:
    """Of batchnormtrain, by its arguments."""

    dx: Array
    dgamma: Array
    dbeta: Array
    dmean: Array
    dstd: Array


def as_3d(x: Array) -> Array:
    return x.reshape(*x.shape[:2], int(np.prod(x.shape[2:])))


def batchnorm(x: Array, gamma: Array, beta: Array, mean: Array, std: Array) -> Array:
    gamma, beta, mean, std = (vector[:, None] for vector in (gamma, beta, mean, std))
    return ((as_3d(x) - mean) / std * gamma + beta).reshape(x.shape)


def batchnorm_backward(dy: Array, x: Array, gamma: Array, mean: Array, std: Array) -> Gradients:
    dy3, centred = as_3d(dy), as_3d(x) - mean[:, None]
    sums, projections = dy3.sum((0, 2)), (dy3 * centred).sum((0, 2))
    return Gradients(
        dx=(dy3 * (gamma / std)[:, None]).reshape(x.shape),
        dgamma=projections / std,
        dbeta=sums,
        dmean=-gamma / std * sums,
        dstd=-gamma / std**2 * projections,
    )


def forward(xs: Sequence[Array], gamma: Array, beta: Array, eps: float = 1e-5) -> Forward:
    count = sum(x[:, 0].size for x in xs)
    ex = sum(as_3d(x).sum((0, 2)) for x in xs) / max(count, 1)
    exs = sum((as_3d(x) ** 2).sum((0, 2)) for x in xs) / max(count, 1)
    std = np.sqrt(exs - ex**2 + eps)
    ones, zeros = np.ones_like(std), np.zeros_like(std)
    norms = [batchnorm(x, ones, zeros, ex, std) for x in xs]
    return Forward([batchnorm(x, gamma, beta, ex, std) for x in xs], norms, ex, exs, std, count)


def backward(result: Forward, xs: Sequence[Array], dys: Sequence[Array], gamma: Array) -> Backward:
    each = [
        batchnorm_backward(dy, x, gamma, result.ex, result.std)
        for dy, x in zip(dys, xs, strict=True)
    ]
    dmean, dstd = sum(one.dmean for one in each), sum(one.dstd for one in each)
    dexs = dstd / (2 * result.std)
    dex = dmean - dstd * result.ex / result.std
    dxs = [
        one.dx + ((dex[:, None] + 2 * as_3d(x) * dexs[:, None]) / result.count).reshape(x.shape)
        for one, x in zip(each, xs, strict=True)
    ]
    return Backward(dxs, [one.dgamma for one in each], [one.dbeta for one in each])


def running(result: Forward, momentum: float, mean: Array, var: Array) -> tuple[Array, Array]:
    """The running statistics after the step, with the unbiased variance."""
    if result.count == 0:
        return mean, var
    sum_var = result.exs * result.count - result.ex**2 * result.count
    unbiased = sum_var / max(result.count - 1, 1)
    return (1 - momentum) * mean + momentum * result.ex, (1 - momentum) * var + momentum * unbiased
