"""Cases whose arrays have their channel axes anywhere, in any order and with any strides.

A case is in the core's form (N, C, *spatial). An arrangement says how a user has the same data: C
is split over channel axes, which stand anywhere among the others, and memory has any order and
gaps.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from support.buffers import Buffer
from support.cases import Case, ShardData, Vector, simple_case
from support.numpy_arrays import dtype_of
from syncnorm import numpy as bn


@dataclass
class Arrangement:
    """order: the axes of the user's array, numbered as (channel axes in turn, N, *spatial)."""

    channels: tuple[int, ...]
    order: list[int]
    axis: int | tuple[int, ...]  # what the user says
    chance: random.Random = field(repr=False)

    def arranged(self, standard: np.ndarray, dtype: str) -> np.ndarray:
        """The user's array of values (N, C, *spatial), with strides as chance has them."""
        n, _, *spatial = standard.shape
        parts = standard.reshape(n, *self.channels, *spatial)
        k = len(self.channels)
        numbered = np.moveaxis(parts, 0, k)  # channels, N, spatial
        return self.laid_out(numbered.transpose(self.order), dtype)

    def standard(self, array: np.ndarray) -> np.ndarray:
        """The other way round."""
        k = len(self.channels)
        numbered = array.transpose(np.argsort(self.order))
        n, *spatial = numbered.shape[k:]
        parts = np.moveaxis(numbered, k, 0)
        return parts.reshape(n, math.prod(self.channels), *spatial)

    def laid_out(self, values: np.ndarray, dtype: str) -> np.ndarray:
        """values in memory of any order of the axes, sometimes with gaps and backwards."""
        memory = list(range(values.ndim))
        if self.chance.random() < 0.6:
            self.chance.shuffle(memory)
        choices = (1, 1, 2, -1, -2) if self.chance.random() < 0.4 else (1,)
        steps = [self.chance.choice(choices) for _ in memory]
        room = [values.shape[a] * abs(steps[a]) for a in memory]
        array = np.empty(room, dtype_of(dtype)).transpose(np.argsort(memory))
        array = array[tuple(slice(None, None, step) for step in steps)]
        array[...] = values
        return array

    def vector(self, vector: Vector | None) -> np.ndarray | None:
        if vector is None:
            return None
        return self.laid_out(vector.values.reshape(self.channels), vector.dtype)

    def updated_vector(self, vector: Vector) -> np.ndarray:
        return vector.values.reshape(self.channels).astype(dtype_of(vector.dtype))


def arrangement(chance: random.Random, ndim: int) -> tuple[Arrangement, tuple[int, ...]]:
    """An arrangement of `ndim` axes and the sizes of the spatial ones."""
    k = chance.randint(1, min(3, max(1, ndim - 1)))
    sizes = (0, *(1, 2, 3) * 8)
    channels = tuple(chance.choice(sizes) for _ in range(k))
    spatial = tuple(chance.choice(sizes) for _ in range(ndim - k - 1))
    order = list(range(k, ndim))  # the reduced axes stay in turn
    for channel in range(k):
        order.insert(chance.randint(0, len(order)), channel)
    axes = tuple(order.index(c) - chance.choice((0, ndim)) for c in range(k))
    return Arrangement(channels, order, axes[0] if k == 1 else axes, chance), spatial


def random_case(chance: random.Random, ndim: int) -> tuple[Case, Arrangement]:
    found, spatial = arrangement(chance, ndim)
    masked = chance.choice(("none", "some"))
    residual = chance.random() < 0.3
    case = simple_case(
        chance.choice(("float64", "float32", "bfloat16")),
        chance.choice(((2, 1), (1, 3), (3, 0), (4,))),
        math.prod(found.channels),
        spatial,
        masked=masked,
        residual=residual,
        seed=chance.getrandbits(32),
        weighting=chance.choice(("count", "batch", "equal")),
        activation=chance.choice(("identity", "relu")),
    )
    return case, found


class Rank:
    """One rank of a case, in the user's form."""

    def __init__(self, case: Case, shard: ShardData, form: Arrangement) -> None:
        def data(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else form.arranged(values, case.dtype)

        self.case, self.form, self.size = case, form, len(case.shards)
        self.x, self.dy, self.residual = data(shard.x), data(shard.dy), data(shard.residual)
        self.mask = None if shard.mask is None else form.laid_out(shard.mask, "uint8")
        self.running = [form.updated_vector(v) for v in (case.running_mean, case.running_var)]
        self.count = np.array(case.batches)
        self.out: dict[str, Buffer] = {}
        self.wires: dict[str, Any] = {}

    @property
    def common(self) -> dict[str, Any]:
        return {"axis": self.form.axis, **self.case.options}

    def moments(self) -> None:
        self.wire, self.local_var = bn.moments(self.x, mask=self.mask, **self.common)

    def center(self, total: np.ndarray) -> np.ndarray:
        return bn.center(self.x, self.wire, total, self.local_var, self.size, **self.common)

    def normalize(self, total: np.ndarray, center_total: np.ndarray | None) -> None:
        case, form = self.case, self.form
        y, self.saved = bn.normalize(
            self.x,
            self.wire,
            total,
            self.size,
            form.vector(case.weight),
            form.vector(case.bias),
            *self.running,
            center_total=center_total,
            residual=self.residual,
            mask=self.mask,
            num_batches_tracked=self.count,
            **self.common,
        )
        self.keep_data(y=y)
        self.keep_vectors(running_mean=self.running[0], running_var=self.running[1])
        self.out["saved"] = Buffer.of(self.saved.statistics, "float64")
        self.out["num_batches_tracked"] = Buffer.of(self.count, "int64")

    def grad_moments(self) -> np.ndarray:
        self.wire = bn.grad_moments(self.dy, self.saved)
        return self.wire

    def grad_input(self, total: np.ndarray) -> None:
        gradients = bn.grad_input(self.dy, self.saved, self.wire, total, self.size)
        dx, dweight, dbias = gradients
        self.keep_data(dx=dx)
        self.keep_vectors(dweight=dweight, dbias=dbias)
        if self.residual is not None:
            self.keep_data(dresidual=gradients.dresidual)

    def keep_data(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            assert array.shape == self.x.shape
            values = self.form.standard(array).astype(np.float64)
            self.out[name] = Buffer.of(values, array.dtype.name)

    def keep_vectors(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            assert array.shape == self.form.channels
            self.out[name] = Buffer.of(array.reshape(-1).astype(np.float64), array.dtype.name)


def run(case: Case, form: Arrangement) -> list[Rank]:
    """Both passes of all ranks, by phases."""
    ranks = [Rank(case, shard, form) for shard in case.shards]
    for rank in ranks:
        rank.moments()
    total = sum(rank.wire for rank in ranks)
    center_total = sum(rank.center(total) for rank in ranks) if case.centred else None
    for rank in ranks:
        rank.normalize(total, center_total)
    total = sum(rank.grad_moments() for rank in ranks)
    for rank in ranks:
        rank.grad_input(total)
    return ranks
