"""What the CUDA backend is meant to reach, and whether it does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from .cases import OPERATIONS
from .points import Point

LARGE_BYTES = 200e6
# Fits the L2 of the devices that the targets were set for (50 MB) together with its output.
SMALL_BYTES = 16e6


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
    small = [p for p in points if 4e6 <= p.case.nbytes <= SMALL_BYTES and p.cache == "warm"]
    if small:
        yield _least(
            f"{operation}: bandwidth in one call, tensors of 4 to 16 MB that were just used",
            small,
            lambda point: point.copy_fraction("one call"),
            1.0,
        )


def _of_torch(operation: str, points: Sequence[Point]) -> Iterable[Target]:
    layers = [p for p in points if p.case.group.startswith("resnet50") and p.cache == "cold"]
    if not layers:
        return
    mean = mean_speedup(layers, "phases", "torch kernels")
    yield Target(
        f"{operation}: phases over torch's kernels, ResNet-50, geometric mean",
        ">= 1.50",
        f"{mean:.2f}",
        mean >= 1.5,
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
