"""paddle.nn.SyncBatchNorm as its page documents it, in float64 NumPy.

mean and variance of the mini-batch of all devices, sum / m; the moving averages take the variance
as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


def rows(x: Array) -> Array:
    """(N, C, ...) as (values, C)."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def unrolled(values: Array, like: Array) -> Array:
    moved = np.moveaxis(like, 1, -1)
    return np.moveaxis(values.reshape(moved.shape), -1, 1)


@dataclass
class Layer:
    weight: Array
    bias: Array
    _mean: Array
    _variance: Array
    momentum: float = 0.9
    epsilon: float = 1e-5

    def share(self, _: Array) -> float:
        """1 / m."""
        return 1 / max(len(self.xhat), 1)

    def forward(self, xs: list[Array]) -> list[Array]:
        self.xs = xs
        batch = np.concatenate([rows(x) for x in xs])
        m = len(batch)
        self.mean = batch.sum(0) / max(m, 1)
        variance = ((batch - self.mean) ** 2).sum(0) / max(m, 1)
        self.invstd = 1 / np.sqrt(variance + self.epsilon)
        self.xhat = (batch - self.mean) * self.invstd
        if m > 0:
            k = self.momentum
            self._mean = self._mean * k + self.mean * (1 - k)
            self._variance = self._variance * k + variance * (1 - k)
        return self._divided(self.xhat * self.weight + self.bias)

    def evaluate(self, x: Array) -> Array:
        xhat = (rows(x) - self._mean) / np.sqrt(self._variance + self.epsilon)
        return unrolled(xhat * self.weight + self.bias, x)

    def backward(self, dys: list[Array]) -> tuple[list[Array], list[Array], list[Array]]:
        """dx of every rank; the gradients of weight and bias are those of a rank's own values."""
        dy = np.concatenate([rows(d) for d in dys])
        dxhat = dy * self.weight
        m = max(len(dy), 1)
        towards_mean = dxhat.sum(0) / m
        towards_variance = self.xhat * (dxhat * self.xhat).sum(0) / m
        dxs = self._divided(self.invstd * (dxhat - towards_mean - towards_variance))
        dweights = [
            (rows(d) * rows(h)).sum(0) for d, h in zip(dys, self._divided(self.xhat), strict=True)
        ]
        return dxs, dweights, [rows(d).sum(0) for d in dys]

    def _divided(self, batch: Array) -> list[Array]:
        """The ranks' parts of what all values have."""
        ends = np.cumsum([len(rows(x)) for x in self.xs])
        parts = np.split(batch, ends[:-1])
        return [unrolled(part, x) for part, x in zip(parts, self.xs, strict=True)]
