"""What the CUDA backend is meant to reach, and whether it does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from .cases import OPERATIONS
from .points import Point

LARGE_BYTES = 200e6
# Over torch's kernels, in the geometric mean.
SPEEDUP = 2.0


@dataclasses.dataclass(frozen=True)
class Target:
    name: str
    wanted: str
    got: str
    reached: bool


def geometric_mean(values: Iterable[tuple[float, int]]) -> float:
    """Of values, each so many times."""
    weighted = list(values)
    total = sum(times for _, times in weighted)
    return math.exp(math.fsum(times * math.log(value) for value, times in weighted) / total)


def mean_speedup(points: Iterable[Point], subject: str, over: str) -> float:
    return geometric_mean((point.speedup(subject, over), point.case.times) for point in points)


def targets(points: Sequence[Point]) -> list[Target]:
    """Those that the points say anything about."""
    found: list[Target] = []
    for operation in OPERATIONS:
        chosen = [point for point in points if point.operation == operation]
        found += _of_copy(operation, chosen)
        found += _of_torch(operation, chosen)
    return found


def _of_copy(operation: str, points: Sequence[Point]) -> Iterable[Target]:
    large = [p for p in points if p.case.nbytes >= LARGE_BYTES and p.cache == "cold"]
    if large:
        yield _least(
            f"{operation}: bandwidth of the phases, tensors of 200 MB and more",
            large,
            lambda point: point.copy_fraction("phases"),
            0.88,
        )


def _of_torch(operation: str, points: Sequence[Point]) -> Iterable[Target]:
    layers = [p for p in points if p.case.group.startswith("resnet50") and p.cache == "cold"]
    if not layers:
        return
    mean = mean_speedup(layers, "phases", "torch kernels")
    yield Target(
        f"{operation}: phases over torch's kernels, ResNet-50, geometric mean",
        f">= {SPEEDUP:.2f}",
        f"{mean:.2f}",
        mean >= SPEEDUP,
    )
    for subject, over, what in (
        ("phases", "torch kernels", "phases over torch's kernels"),
        ("one call", "F.batch_norm", "one call over F.batch_norm"),
    ):
        yield _least(
            f"{operation}: {what}, ResNet-50, slowest layer",
            layers,
            lambda point, pair=(subject, over): point.speedup(*pair),
            1.0,
        )


def _least(
    name: str, points: Sequence[Point], value: Callable[[Point], float], wanted: float
) -> Target:
    worst = min(points, key=value)
    got = value(worst)
    return Target(name, f">= {wanted:.2f}", f"{got:.2f} ({worst.case.name})", got >= wanted)
