"""The SyncBatchNorm operator of mxnet over the devices of one process, in float64 NumPy.

Written from the operator's documentation: every device has its own mean and mean of squares, and
their averages over the devices are those of the batch. A device without values takes no part.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


def along(vector: Array, x: Array) -> Array:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def summed(x: Array) -> Array:
    return x.sum(axis=(0, *range(2, x.ndim)))


@dataclass
class Operator:
    gamma: Array
    beta: Array
    running_mean: Array
    running_var: Array
    momentum: float = 0.9
    eps: float = 1e-5
    fix_gamma: bool = False
    use_global_stats: bool = False
    xs: list[Array] = field(default_factory=list)

    @property
    def slope(self) -> Array:
        return np.ones_like(self.gamma) if self.fix_gamma else self.gamma

    @property
    def invstd(self) -> Array:
        return 1 / np.sqrt(self.var + self.eps)

    def share(self, x: Array) -> float:
        """1 / (devices * values of this device)."""
        taking_part = sum(other.size > 0 for other in self.xs)
        return x.shape[1] / (taking_part * x.size) if x.size else 0.0

    def forward(self, xs: list[Array]) -> list[Array]:
        self.xs = xs
        if self.use_global_stats:
            self.mean, self.var = self.running_mean, self.running_var
        elif not any(x.size for x in xs):
            self.mean, self.var = np.zeros_like(self.gamma), np.ones_like(self.gamma)
        else:
            each = [(x, x.size // x.shape[1]) for x in xs if x.size]
            self.mean = np.mean([summed(x) / n for x, n in each], axis=0)
            self.var = np.mean([summed(x**2) / n for x, n in each], axis=0) - self.mean**2
        return [
            along(self.slope * self.invstd, x) * (x - along(self.mean, x)) + along(self.beta, x)
            for x in xs
        ]

    def backward(self, dys: list[Array]) -> tuple[list[Array], list[Array], list[Array]]:
        """The gradients of data, gamma and beta of every device; moves the running statistics."""
        away = [x - along(self.mean, x) for x in self.xs]
        pairs = list(zip(dys, away, strict=True))
        dgammas = [summed(dy * a) * self.invstd * (not self.fix_gamma) for dy, a in pairs]
        dbetas = [summed(dy) for dy in dys]
        dxs = [dy * along(self.slope * self.invstd, dy) for dy in dys]
        if self.use_global_stats:
            return dxs, dgammas, dbetas
        dmean = -sum(summed(dy) for dy in dys) * self.slope * self.invstd
        dvar = -sum(summed(dy * a) for dy, a in pairs) * self.slope * self.invstd**3 / 2
        for index, a in enumerate(away):
            through = along(dmean, a) + along(dvar, a) * 2 * a
            dxs[index] = dxs[index] + self.share(a) * through
        if any(x.size for x in self.xs):
            m = self.momentum
            self.running_mean = m * self.running_mean + (1 - m) * self.mean
            self.running_var = m * self.running_var + (1 - m) * self.var
        return dxs, dgammas, dbetas
