"""Hold everything that was measured, and write it as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cases import OPERATIONS, TINY_SHAPE
from .config import BenchConfig
from .overhead import BASELINE
from .points import Point
from .timing import Rounds


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of one run.

    copy_bandwidth: bytes per second, by number of threads. overhead: see `measure_overhead`.
    seconds: duration of the run.
    """

    config: BenchConfig
    machine: dict[str, Any]
    allocator: str
    copy_bandwidth: dict[int, float]
    points: list[Point]
    overhead: dict[str, Rounds]
    seconds: float

    def ratios(self, operation: str) -> list[float]:
        """Return the ratios ours / torch of `operation`, one per point."""
        return [point.operations[operation].timing.ratio for point in self.points]


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive numbers."""
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def write_json(results: Results, path: Path) -> None:
    """Write `results` as JSON to `path`."""
    forward, both = results.overhead["forward"], results.overhead["forward+backward"]
    document = {
        "machine": results.machine,
        "allocator": results.allocator,
        "settings": {**dataclasses.asdict(results.config), "output": str(results.config.output)},
        "copy_bandwidth_bytes_per_second": results.copy_bandwidth,
        "geometric_mean_ratio": {name: geometric_mean(results.ratios(name)) for name in OPERATIONS},
        "points": [
            {"name": point.case.name, **dataclasses.asdict(point)} for point in results.points
        ],
        "overhead": {
            "shape": TINY_SHAPE,
            "forward": forward.medians(),
            "both": both.medians(),
            "forward_ratio": forward.ratios(BASELINE),
            "both_ratio": both.ratios(BASELINE),
        },
        "seconds": results.seconds,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
