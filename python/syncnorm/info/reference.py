"""One training step in float64, in plain Python: the expected numbers of a check."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import TypeAlias

CHANNELS, LENGTH = 3, 5
EPS, MOMENTUM = 1e-5, 0.1
WEIGHT = [1.5, -0.75, 0.5]
BIAS = [0.25, 1.0, -2.0]
_MEANS = (0.0, 16.0, -4.0)  # of x, about

# Each array as a flat list: x and dy in the order of (N, CHANNELS, LENGTH).
Arrays: TypeAlias = dict[str, list[float]]


def shard(rank: int, samples: int) -> Arrays:
    """Return x and dy of a rank; the values are exact in every dtype from float16 on."""
    generator = random.Random(rank)
    size = samples * CHANNELS * LENGTH
    noise = [generator.randrange(-256, 256) / 128 for _ in range(2 * size)]
    x = [_MEANS[at // LENGTH % CHANNELS] + noise[at] for at in range(size)]
    return {"x": x, "dy": noise[size:]}


def expected(shards: Sequence[Arrays]) -> list[Arrays]:
    """Return the results of one step for each rank, with statistics over all of them.

    The gradients of weight and bias are those of a rank alone (docs/mathematics.md).
    """
    results: list[Arrays] = [{"y": [0.0] * len(each["x"])} for each in shards]
    for result in results:
        result["dx"] = result["y"].copy()
        result |= {name: [] for name in ("dweight", "dbias", "running_mean", "running_var")}
    for channel in range(CHANNELS):
        _add_channel(channel, shards, results)
    return results


def _add_channel(channel: int, shards: Sequence[Arrays], results: Sequence[Arrays]) -> None:
    x = [[each["x"][at] for at in _positions(each, channel)] for each in shards]
    dy = [[each["dy"][at] for at in _positions(each, channel)] for each in shards]
    count = sum(map(len, x))
    mean = math.fsum(value for own in x for value in own) / count
    var = math.fsum((value - mean) ** 2 for own in x for value in own) / count
    invstd = 1 / math.sqrt(var + EPS)
    xhat = [[(value - mean) * invstd for value in own] for own in x]
    dbias = [math.fsum(own) for own in dy]
    dweight = [math.fsum(map(float.__mul__, *pair)) for pair in zip(dy, xhat, strict=True)]
    mean_dy, mean_dy_xhat = math.fsum(dbias) / count, math.fsum(dweight) / count
    for rank, result in enumerate(results):
        for index, at in enumerate(_positions(shards[rank], channel)):
            normalized = xhat[rank][index]
            result["y"][at] = WEIGHT[channel] * normalized + BIAS[channel]
            centered = dy[rank][index] - mean_dy - normalized * mean_dy_xhat
            result["dx"][at] = WEIGHT[channel] * invstd * centered
        result["dweight"].append(dweight[rank])
        result["dbias"].append(dbias[rank])
        result["running_mean"].append(MOMENTUM * mean)
        result["running_var"].append(1 - MOMENTUM + MOMENTUM * var * count / (count - 1))


def _positions(each: Arrays, channel: int) -> Iterator[int]:
    return (at for at in range(len(each["x"])) if at // LENGTH % CHANNELS == channel)


def error(got: Arrays, wanted: Arrays) -> float:
    """Return the largest error over all arrays, each relative to its largest value or 1."""
    return max(_error(got.get(name, []), values) for name, values in wanted.items())


def _error(got: Sequence[float], wanted: Sequence[float]) -> float:
    if len(got) != len(wanted) or not all(map(math.isfinite, got)):
        return math.inf
    scale = max(1.0, *map(abs, wanted))
    return max(abs(a - b) for a, b in zip(got, wanted, strict=True)) / scale
