"""One problem for the core: a group of shards, parameters and options, with seeded data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reference import Policy, Shard
from support.dtypes import UNIT, quantize

DEFAULTS: dict[str, Any] = {
    "eps": 1e-5,
    "momentum": 0.1,
    "weighting": "count",
    "eps_mode": "add",
    "variance_factor": "unbiased",
    "grad_reduction": "local",
    "centering": "auto",
    "activation": "identity",
    "negative_slope": 0.01,
    "in_place": False,
}


@dataclass(frozen=True)
class Vector:
    """One value per channel, exact in dtype."""

    values: np.ndarray
    dtype: str


@dataclass(frozen=True)
class ShardData:
    """What a rank holds, (N, C, *spatial), exact in the case's dtype; mask (N, *spatial)."""

    x: np.ndarray
    dy: np.ndarray
    mask: np.ndarray | None = None
    residual: np.ndarray | None = None


@dataclass(frozen=True)
class Case:
    dtype: str
    channels: int
    shards: list[ShardData]
    layout: str = "first"
    weight: Vector | None = None
    bias: Vector | None = None
    running_mean: Vector | None = None
    running_var: Vector | None = None
    batches: int | None = None
    given: dict[str, Any] = field(default_factory=dict)  # options other than the defaults
    overwrite: bool = False  # y is written into x's memory

    @property
    def options(self) -> dict[str, Any]:
        return DEFAULTS | self.given

    @property
    def policy(self) -> Policy:
        fields = Policy.__dataclass_fields__
        return Policy(**{k: v for k, v in self.options.items() if k in fields})

    @property
    def arithmetic(self) -> str:
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def centred(self) -> bool:
        wanted = self.options["centering"]
        return wanted == "on" or (wanted == "auto" and self.dtype == "float64")

    @property
    def reference_shards(self) -> list[Shard]:
        return [
            Shard(
                flat(s.x),
                None if s.mask is None else s.mask.reshape(len(s.x), math.prod(s.mask.shape[1:])),
                None if s.residual is None else flat(s.residual),
            )
            for s in self.shards
        ]

    @property
    def gradients(self) -> list[np.ndarray]:
        return [flat(s.dy) for s in self.shards]


def flat(values: np.ndarray) -> np.ndarray:
    """(N, C, *spatial) -> (N, C, S), also where N is 0."""
    return values.reshape(*values.shape[:2], math.prod(values.shape[2:]))


def can_carry(dtype: str, ratio: float) -> bool:
    """Whether values with |mean|/std = ratio still differ from each other in dtype."""
    return 2 * UNIT[dtype] * ratio <= 1


def channel_vector(generator: np.random.Generator, channels: int, dtype: str, kind: str) -> Vector:
    """kind: "gamma" (either sign, a zero among many), "any", or "positive"."""
    values = generator.standard_normal(channels)
    if kind == "positive":
        values = 0.5 + np.abs(values)
    if kind == "gamma" and channels > 4:
        values[3] = 0
    return Vector(quantize(values, dtype), dtype)


def make_x(
    generator: np.random.Generator, shape: Sequence[int], dtype: str, ratio: float
) -> np.ndarray:
    """Normal values with std 1/2, 1 or 2 by channel, |mean| = ratio*std of either sign."""
    index = np.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    std = 2.0 ** (index % 3 - 1)
    mean = ratio * std * np.where(index % 2 == 0, 1.0, -1.0)
    values = generator.standard_normal(shape) * std + mean
    if shape[1] > 6:  # a channel without variance
        values[:, 5] = mean[0, 5]
    return quantize(values, dtype)


def make_shard(
    generator: np.random.Generator,
    shape: Sequence[int],
    dtype: str,
    *,
    ratio: float = 0,
    masked: str = "none",
    residual: bool = False,
) -> ShardData:
    """masked: "none", "some" (about a third does not count), or "all"."""
    plane = (shape[0], *shape[2:])
    chance = {"none": 1.0, "some": 0.67, "all": 0.0}[masked]
    # Any byte but 0 counts.
    mask = np.where(generator.random(plane) < chance, 1 + generator.integers(0, 255, plane), 0)
    return ShardData(
        x=make_x(generator, shape, dtype, ratio),
        dy=quantize(generator.standard_normal(shape), dtype),
        mask=None if masked == "none" else mask.astype(np.uint8),
        residual=quantize(generator.standard_normal(shape), dtype) if residual else None,
    )


def simple_case(
    dtype: str = "float32",
    batches: Sequence[int] = (3, 1, 2),
    channels: int = 5,
    spatial: Sequence[int] = (7,),
    *,
    layout: str = "first",
    ratio: float = 0,
    masked: str = "none",
    residual: bool = False,
    seed: int = 0,
    **options: Any,
) -> Case:
    """A case with all parameters and buffers, of the arithmetic dtype."""
    generator = np.random.default_rng(seed)
    parameter = "float64" if dtype == "float64" else "float32"
    shards = [
        make_shard(
            generator,
            (n, channels, *spatial),
            dtype,
            ratio=ratio,
            masked=masked,
            residual=residual,
        )
        for n in batches
    ]
    weight, bias, mean, var = (
        channel_vector(generator, channels, parameter, kind)
        for kind in ("gamma", "any", "any", "positive")
    )
    return Case(dtype, channels, shards, layout, weight, bias, mean, var, 3, options)
