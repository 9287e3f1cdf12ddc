"""megengine.functional.nn.sync_batch_norm over all ranks, in float64 NumPy.

As its source has it: sums of x and of x^2 go over all ranks, y = x*factor + (bias - mean*factor),
and the gradients are what its automatic differentiation makes of that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


def as_row(vector: Array, x: Array) -> Array:
    return vector.reshape(1, -1, *[1] * (x.ndim - 2))


def channel_sum(x: Array) -> Array:
    return x.sum(axis=(0, *range(2, x.ndim)))


@dataclass
class Function:
    weight: Array
    bias: Array
    running_mean: Array
    running_var: Array
    momentum: float = 0.9
    eps: float = 1e-5
    eps_mode: str = "additive"
    freeze: bool = False

    def share(self, _: Array) -> float:
        """1 / the number of values of all ranks."""
        return 1 / max(self.size, 1)

    def forward(self, xs: list[Array]) -> list[Array]:
        self.xs = xs
        self.size = sum(x.size // x.shape[1] for x in xs)
        if self.freeze:
            self.mean, self.var = self.running_mean, self.running_var
        elif self.size:
            self._take_statistics(sum(map(channel_sum, xs)), sum(channel_sum(x**2) for x in xs))
        else:
            self.mean, self.var = np.zeros_like(self.weight), np.ones_like(self.weight)
        if self.eps_mode == "max":
            self.invstd = np.maximum(self.var, self.eps) ** -0.5
        else:
            self.invstd = (self.var + self.eps) ** -0.5
        factor = self.weight * self.invstd
        offset = self.bias - self.mean * factor
        return [x * as_row(factor, x) + as_row(offset, x) for x in xs]

    def _take_statistics(self, x1s: Array, x2s: Array) -> None:
        self.mean = x1s / self.size
        self.var = x2s / self.size - self.mean**2
        unbiased = (x2s - x1s**2 / self.size) / (self.size - 1)
        self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * self.mean
        self.running_var = self.momentum * self.running_var + (1 - self.momentum) * unbiased

    def backward(self, dys: list[Array]) -> tuple[list[Array], list[Array], list[Array]]:
        """dx of every rank; the gradients of weight and bias are those of a rank's own values."""
        factor = self.weight * self.invstd
        dxs = [dy * as_row(factor, dy) for dy in dys]
        away = [x - as_row(self.mean, x) for x in self.xs]
        dfactors = [channel_sum(dy * a) for dy, a in zip(dys, away, strict=True)]
        dweights, dbiases = [d * self.invstd for d in dfactors], [channel_sum(dy) for dy in dys]
        if self.freeze:
            return dxs, dweights, dbiases
        dmean = -sum(dbiases) * factor
        dvar = sum(dfactors) * self.weight * -0.5 * self.invstd**3
        if self.eps_mode == "max":
            dvar = np.where(self.var < self.eps, 0, dvar)
        each = self.share(self.xs[0])
        dx1s, dx2s = (dmean - 2 * self.mean * dvar) * each, dvar * each
        pairs = zip(dxs, self.xs, strict=True)
        dxs = [dx + as_row(dx1s, x) + 2 * x * as_row(dx2s, x) for dx, x in pairs]
        return dxs, dweights, dbiases
