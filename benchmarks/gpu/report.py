"""The tables for the reader and the JSON with everything that was measured."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .cases import OPERATIONS
from .facts import line
from .points import CACHES, Point
from .targets import targets

KERNELS, CUDNN = "torch kernels", "F.batch_norm"


@dataclasses.dataclass(frozen=True)
class Results:
    facts: dict[str, Any]
    settings: dict[str, Any]
    copy_bandwidth: float
    points: Sequence[Point]
    host: dict[str, dict[str, float]]
    seconds: float


def geometric_mean(values: Iterable[tuple[float, int]]) -> float:
    """Of values, each so many times."""
    weighted = list(values)
    total = sum(times for _, times in weighted)
    return math.exp(math.fsum(times * math.log(value) for value, times in weighted) / total)


def mean_speedup(points: Iterable[Point], subject: str, over: str) -> float:
    return geometric_mean((point.speedup(subject, over), point.case.times) for point in points)


def markdown(results: Results) -> str:
    copy = (
        f"Copy from device to device: {results.copy_bandwidth / 1e9:.0f} GB/s, read and written."
        " Bytes are counted as 2 reads and 1 write forward, 4 and 1 backward."
    )
    tables = (
        _table_of_targets(results),
        _table_of_groups(results),
        _table_of_points(results),
        _table_of_host(results),
    )
    parts = ["# syncbn on a GPU", line(results.facts), copy, *("\n".join(rows) for rows in tables)]
    return "\n\n".join(parts) + "\n"


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), _row(*["---"] * len(cells))]


def _table_of_targets(results: Results) -> list[str]:
    rows = [
        _row(target.name, target.wanted, target.got, "yes" if target.reached else "NO")
        for target in targets(results.points)
    ]
    return ["## Targets", "", *_head("target", "wanted", "got", "reached"), *rows]


def _grouped(points: Iterable[Point]) -> dict[tuple[str, ...], list[Point]]:
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        key = (point.case.group, point.case.dtype, point.case.layout, point.cache)
        groups.setdefault((*key, point.operation), []).append(point)
    return groups


def _table_of_groups(results: Results) -> list[str]:
    """Speed-ups of each group of shapes, in the geometric mean over its layers."""
    lines = ["## How many times as fast, in the geometric mean", ""]
    lines += _head(
        "shapes", "dtype", "layout", "cache", "operation",
        "phases / torch's kernels", "phases / F.batch_norm", "one call / F.batch_norm",
    )  # fmt: skip
    for key, points in _grouped(results.points).items():
        speedups = (
            mean_speedup(points, *pair)
            for pair in (("phases", KERNELS), ("phases", CUDNN), ("one call", CUDNN))
        )
        lines.append(_row(*key, *(f"{speedup:.2f}" for speedup in speedups)))
    return lines


def _table_of_points(results: Results) -> list[str]:
    lines = ["## Each shape: time in microseconds, and bandwidth in % of the copy's", ""]
    lines += _head(
        "case", "cache", "operation", "phases", "one call", KERNELS, CUDNN,
        "phases, GB/s", "phases, % of copy", "one call, % of copy",
    )  # fmt: skip
    for point in results.points:
        times = (
            f"{1e6 * point.seconds[name]:.1f}" for name in ("phases", "one call", KERNELS, CUDNN)
        )
        lines.append(
            _row(
                point.case.name,
                point.cache,
                point.operation,
                *times,
                f"{point.bandwidth('phases') / 1e9:.0f}",
                f"{100 * point.copy_fraction('phases'):.0f}",
                f"{100 * point.copy_fraction('one call'):.0f}",
            )
        )
    return lines


def _table_of_host(results: Results) -> list[str]:
    names = list(next(iter(results.host.values())))
    lines = ["## Microseconds of the host per call, on 2x8x4x4", "", *_head("operation", *names)]
    for operation in OPERATIONS:
        times = (f"{1e6 * results.host[operation][name]:.1f}" for name in names)
        lines.append(_row(operation, *times))
    return lines


def document(results: Results) -> dict[str, Any]:
    """As of `python -m syncbn bench`, so that benchmarks/compare.py reads it."""
    points: dict[str, dict[str, Any]] = {}
    for point in results.points:
        case = dataclasses.asdict(point.case)
        entry = points.setdefault(
            f"{point.case.name}, {point.cache}, {point.case.group}",
            {
                "name": f"{point.case.name}, {point.cache}",
                "case": case,
                "cache": point.cache,
                "operations": {},
            },
        )
        entry["operations"][point.operation] = {
            "timing": {
                "torch": point.seconds[KERNELS],
                "ours": point.seconds["phases"],
                "ratio": 1 / point.speedup("phases", KERNELS),
            },
            "seconds": point.seconds,
            "copy_fraction": {name: point.copy_fraction(name) for name in ("phases", "one call")},
        }
    return {
        "machine": results.facts,
        "settings": results.settings,
        "copy_bandwidth_bytes_per_second": results.copy_bandwidth,
        "geometric_mean_ratio": {
            f"{operation}, {cache}": 1 / mean_speedup(chosen, "phases", KERNELS)
            for operation in OPERATIONS
            for cache in CACHES
            if (
                chosen := [
                    point
                    for point in results.points
                    if (point.operation, point.cache) == (operation, cache)
                ]
            )
        },
        "targets": [dataclasses.asdict(target) for target in targets(results.points)],
        "points": list(points.values()),
        "host_seconds": results.host,
        "seconds": results.seconds,
    }


def write(results: Results, folder: Path) -> None:
    (folder / "benchmark.md").write_text(markdown(results))
    (folder / "benchmark.json").write_text(json.dumps(document(results), indent=1) + "\n")
