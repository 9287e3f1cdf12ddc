"""ChainerMN's MultiNodeBatchNormalization, all ranks at once, as its documentation and the sources
of Chainer 7.8 have it (chainermn/links/batch_normalization.py, the General implementation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


@dataclass
class MultiNodeBatchNormalization:
    """The link on `ranks` ranks. Parameters and what travels have `dtype`."""

    size: int | tuple[int, ...]
    ranks: int
    decay: float = 0.9
    eps: float = 2e-5
    dtype: str = "float64"
    count: int = 0  # the link's N
    avg_mean: list[Array] = field(init=False)
    avg_var: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        self.gamma = np.ones(self.size, self.dtype)
        self.beta = np.zeros(self.size, self.dtype)
        self.avg_mean = [np.zeros(self.size, self.dtype) for _ in range(self.ranks)]
        self.avg_var = [np.zeros(self.size, self.dtype) for _ in range(self.ranks)]

    def axis(self, x: Array) -> tuple[int, ...]:
        return (0, *range(self.gamma.ndim + 1, x.ndim))

    def spread(self, channels: Array, x: Array) -> Array:
        """Values per channel so that they broadcast against x."""
        return np.expand_dims(channels, self.axis(x))

    def mean_over_ranks(self, values: Sequence[Array]) -> Array:
        return sum(values[1:], values[0]) / self.dtype_of(len(values))

    def dtype_of(self, number: float) -> np.generic:
        return np.dtype(self.dtype).type(number)

    def forward(self, x: Sequence[Array], *, finetune: bool = False) -> list[Array]:
        mean = self.mean_over_ranks([e.mean(self.axis(e), dtype=self.dtype) for e in x])
        squares = [np.square(e).mean(self.axis(e), dtype=self.dtype) for e in x]
        var = self.mean_over_ranks(squares) - np.square(mean)
        self.inv_std = 1 / np.sqrt(var + self.dtype_of(self.eps))
        self.x_hat = [(e - self.spread(mean, e)) * self.spread(self.inv_std, e) for e in x]
        self.count += finetune
        decay = 1 - 1 / self.count if finetune else self.decay
        for rank, e in enumerate(x):
            m = e.size // self.gamma.size
            adjust = m / max(m - 1.0, 1.0)
            self.avg_mean[rank] = self.avg_mean[rank] * decay + (1 - decay) * mean
            self.avg_var[rank] = self.avg_var[rank] * decay + (1 - decay) * adjust * var
        return [h * self.spread(self.gamma, h) + self.spread(self.beta, h) for h in self.x_hat]

    def backward(self, gy: Sequence[Array]) -> tuple[list[Array], Array, Array]:
        """gx on each rank, and what every rank gets as ggamma and gbeta."""
        pairs = list(zip(gy, self.x_hat, strict=True))
        gbeta = self.mean_over_ranks([g.sum(self.axis(g), dtype=self.dtype) for g in gy])
        ggamma = self.mean_over_ranks(
            [(g * h).sum(self.axis(g), dtype=self.dtype) for g, h in pairs]
        )
        gx = []
        for g, h in pairs:
            m = self.dtype_of(g.size // self.gamma.size)
            pull = (h * self.spread(ggamma, g) + self.spread(gbeta, g)) / m
            gx.append(self.spread(self.gamma * self.inv_std, g) * (g - pull))
        return gx, ggamma, gbeta

    def evaluate(self, x: Array, rank: int) -> Array:
        std = np.sqrt(self.avg_var[rank] + self.eps)
        normalized = (x - self.spread(self.avg_mean[rank], x)) / self.spread(std, x)
        return normalized * self.spread(self.gamma, x) + self.spread(self.beta, x)
