"""Everything that was measured, as the JSON of a run; several of them are put together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .cases import OPERATIONS, Case
from .counters import KernelCounters
from .graphs import GraphTime
from .host import HostTime
from .phases import PhaseTime
from .points import CACHES, KERNELS, Point
from .targets import mean_speedup, targets
from .training import Setting, Training

# What is measured by itself, in the order in which it is.
PARTS = ("kernels", "host", "graphs", "training", "counters")
# Numbers stand beside each other only if these are the same.
SAME = ("gpu", "driver", "torch", "torch_cuda", "cudnn", "syncnorm")


@dataclasses.dataclass
class Results:
    """runs: what was measured when, with which settings. failures: parts that ended in an error."""

    facts: dict[str, Any]
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    copy_bandwidth: float | None = None  # bytes per second, read and written
    points: list[Point] = dataclasses.field(default_factory=list)
    phases: list[PhaseTime] = dataclasses.field(default_factory=list)
    host: list[HostTime] = dataclasses.field(default_factory=list)
    graphs: list[GraphTime] = dataclasses.field(default_factory=list)
    training: list[Training] = dataclasses.field(default_factory=list)
    counters: list[KernelCounters] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)


def together(earlier: Results, later: Results) -> Results:
    """Both; of what was measured twice, the later. ValueError for different machines."""
    for name in SAME:
        first, second = earlier.facts.get(name), later.facts.get(name)
        if first != second:
            raise ValueError(
                f"the results are not of one machine and one set of versions: {name} is {first!r}"
                f" and {second!r}; put the later ones into another folder"
            )

    def both(name: str) -> list[Any]:
        entries = (*getattr(earlier, name), *getattr(later, name))
        return list({entry.key: entry for entry in entries}.values())

    return Results(
        earlier.facts,
        [*earlier.runs, *later.runs],
        later.copy_bandwidth or earlier.copy_bandwidth,
        *(both(name) for name in ("points", "phases", "host", "graphs", "training", "counters")),
        [*earlier.failures, *later.failures],
    )


def document(results: Results) -> dict[str, Any]:
    """The points are as of `python -m syncnorm bench`, so that benchmarks/compare.py reads them."""
    return {
        "machine": results.facts,
        "runs": results.runs,
        "failures": results.failures,
        "copy_bandwidth_bytes_per_second": results.copy_bandwidth,
        "geometric_mean_ratio": _mean_ratios(results.points),
        "targets": [dataclasses.asdict(target) for target in targets(results.points)],
        "points": _documented(results.points),
        "phases": _dictionaries(results.phases),
        "host": _dictionaries(results.host),
        "graphs": _dictionaries(results.graphs),
        "training": _dictionaries(results.training),
        "counters": _dictionaries(results.counters),
    }


def _dictionaries(entries: Iterable[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(entry) for entry in entries]


def _mean_ratios(points: Sequence[Point]) -> dict[str, float]:
    return {
        f"{operation}, {cache}": 1 / mean_speedup(chosen, "phases", KERNELS)
        for operation in OPERATIONS
        for cache in CACHES
        if (chosen := [p for p in points if (p.operation, p.cache) == (operation, cache)])
    }


def _documented(points: Iterable[Point]) -> list[dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for point in points:
        entry = entries.setdefault(
            f"{point.case.name}, {point.cache}, {point.case.group}",
            {
                "name": f"{point.case.name}, {point.cache}",
                "case": dataclasses.asdict(point.case),
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
            "copy_bandwidth": point.copy_bandwidth,
            "copy_fraction": {name: point.copy_fraction(name) for name in ("phases", "one call")},
        }
    return list(entries.values())


def _case(entry: dict[str, Any]) -> Case:
    return Case(**{**entry, "shape": tuple(entry["shape"])})


def from_document(found: dict[str, Any]) -> Results:
    """The inverse of document."""
    points = [
        Point(
            _case(entry["case"]),
            operation,
            entry["cache"],
            measured["seconds"],
            measured["copy_bandwidth"],
        )
        for entry in found["points"]
        for operation, measured in entry["operations"].items()
    ]
    training = [
        Training(**{**entry, "setting": Setting(**entry["setting"])}) for entry in found["training"]
    ]
    return Results(
        found["machine"],
        found["runs"],
        found["copy_bandwidth_bytes_per_second"],
        points,
        [PhaseTime(**{**entry, "case": _case(entry["case"])}) for entry in found["phases"]],
        [HostTime(**entry) for entry in found["host"]],
        [GraphTime(**entry) for entry in found["graphs"]],
        training,
        [KernelCounters(**entry) for entry in found["counters"]],
        found["failures"],
    )


def read(path: Path) -> Results:
    """A benchmark.json, or a results.json that has one in it."""
    found = json.loads(path.read_text())
    found = found.get("benchmark", found)
    if "runs" not in found:
        raise ValueError(f"{path}: expected results of python -m benchmarks.gpu, found others")
    return from_document(found)


def write_json(results: Results, path: Path) -> None:
    path.write_text(json.dumps(document(results), indent=1) + "\n")
