"""The table for the reader and the JSON with everything that was measured."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cases import OPERATIONS, TINY_SHAPE
from .measure import Timing
from .overhead import Overhead
from .points import Point
from .settings import Settings


@dataclasses.dataclass(frozen=True)
class Results:
    settings: Settings
    machine: dict[str, Any]
    allocator: str
    copy_bandwidth: dict[int, float]  # bytes per second, by threads
    points: list[Point]
    overhead: Overhead
    seconds: float

    def ratios(self, operation: str) -> list[float]:
        return [point.operations[operation].timing.ratio for point in self.points]


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def header() -> str:
    first = (
        f"{'':<35}{'thr':>4}{'torch / ours, ms':>26}{'':6}{'ours / torch':>20}{'':4}"
        f"{'of copy speed':>16}{'error of y, dx':>17}"
    )
    second = (
        f"{'':<39}{'forward':>16}{'backward':>16}{'forward':>8}{'backward':>9}{'both':>7}"
        f"{'forward':>8}{'backward':>9}{'torch':>8}{'ours':>8}"
    )
    return f"{first}\n{second}"


def row(point: Point) -> str:
    measured = [point.operations[operation] for operation in OPERATIONS]
    times = "".join(f"{_milliseconds(each.timing):>16}" for each in measured[:2])
    ratios = _ratios(each.timing.ratio for each in measured)
    forward, backward = (100 * each.copy_fraction for each in measured[:2])
    errors = "".join(
        f"{max(errors.y, errors.dx):>8.0e}" for errors in (point.torch_errors, point.our_errors)
    )
    return (
        f"{point.case.name:<35}{point.threads:>4}{times}{ratios}"
        f"{forward:>6.0f} %{backward:>7.0f} %{errors}"
    )


def _ratios(values: Iterable[float]) -> str:
    return "".join(f"{value:>{width}.2f}" for value, width in zip(values, (8, 9, 7), strict=True))


def _milliseconds(timing: Timing) -> str:
    return f"{1e3 * timing.torch:.2f} / {1e3 * timing.ours:.2f}"


def summary(results: Results) -> str:
    means = _ratios(geometric_mean(results.ratios(name)) for name in OPERATIONS)
    lines = [f"{'geometric mean':<71}{means}"]
    both = results.ratios("forward+backward")
    slower = sum(ratio > 1 for ratio in both)
    worst = results.points[both.index(max(both))]
    lines.append(
        f"forward+backward: slower than torch at {slower} of {len(both)} points; "
        f"highest ratio {max(both):.2f} at {worst.case.name}, {worst.threads} thr"
    )
    copies = ", ".join(
        f"{threads} thr {speed / 1e9:.1f} GB/s" for threads, speed in results.copy_bandwidth.items()
    )
    lines.append(
        f"copy speed (read + written): {copies}. Traffic is counted as 2 reads + 1 write forward\n"
        "and 4 + 1 backward, the least where ranks exchange in between: a group of one, or data "
        "that\nstays in the cache, can exceed 100 %."
    )
    lines.append("errors: largest |result - float64 result| / largest |float64 result|")
    return "\n".join([*lines, "", *overhead_table(results.overhead)])


def overhead_table(overhead: Overhead) -> list[str]:
    title = f"one call on {'x'.join(map(str, TINY_SHAPE))}, 1 thread, us"
    lines = [f"{title:<35}{'forward':>10}{'forward+backward':>20}"]
    for name, forward in overhead.forward.items():
        lines.append(f"{name:<35}{1e6 * forward:>10.1f}{1e6 * overhead.both[name]:>20.1f}")
    return lines


def write_json(results: Results, path: Path) -> None:
    settings = {**dataclasses.asdict(results.settings), "output": str(results.settings.output)}
    document = {
        "machine": results.machine,
        "allocator": results.allocator,
        "settings": settings,
        "copy_bandwidth_bytes_per_second": results.copy_bandwidth,
        "geometric_mean_ratio": {name: geometric_mean(results.ratios(name)) for name in OPERATIONS},
        "points": [
            {"name": point.case.name, **dataclasses.asdict(point)} for point in results.points
        ],
        "overhead": {"shape": TINY_SHAPE, **dataclasses.asdict(results.overhead)},
        "seconds": results.seconds,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
