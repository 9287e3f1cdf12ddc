"""The whole report, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .facts import line
from .model import predicted_seconds
from .points import COMPILED, CUDNN, KERNELS, Point
from .rehearsal import STAND_INS
from .results import Results
from .tables import (
    counters_table,
    graphs_table,
    host_table,
    microseconds,
    table,
    training_table,
)
from .targets import mean_speedup, targets

NAMES = ("phases", "one call", KERNELS, CUDNN, COMPILED)


def markdown(results: Results) -> str:
    parts = ["# syncnorm on a GPU", line(results.facts), *_runs(results)]
    if results.facts.get("device") == "cpu":
        parts.append(STAND_INS)
    if results.copy_bandwidth:
        parts.append(
            f"Copy from device to device: {results.copy_bandwidth / 1e9:.0f} GB/s, read and"
            " written. Bytes are counted as 2 reads and 1 write forward, 4 and 1 backward."
        )
    for title, made, has in (
        ("Targets", _targets, results.points),
        ("Each kernel by itself, cold caches", _phases, results.phases),
        ("How many times as fast, in the geometric mean", _groups, results.points),
        (
            "Each shape: time in microseconds, and bandwidth in % of the copy's",
            _points,
            results.points,
        ),
        (
            "Microseconds of the host per call, on 2x8x4x4",
            lambda found: host_table(found.host),
            results.host,
        ),
        (
            "Forward and backward of a layer under a CUDA graph, float32",
            lambda found: graphs_table(found.graphs),
            results.graphs,
        ),
        (
            "A training step of ResNet-50",
            lambda found: training_table(found.training),
            results.training,
        ),
        ("Counters of each kernel, caches empty before it", counters_table, results.counters),
    ):
        if has:
            parts.append(f"## {title}\n\n{made(results)}")
    return "\n\n".join(parts) + "\n"


def _runs(results: Results) -> Iterable[str]:
    for run in results.runs:
        yield f"{run['date']}: {', '.join(run['parts'])}, in {run['seconds']:.0f} s."
    for failure in results.failures:
        yield f"FAILED: {failure}"


def _targets(results: Results) -> str:
    rows = [
        (target.name, target.wanted, target.got, "yes" if target.reached else "NO")
        for target in targets(results.points)
    ]
    return table(("target", "wanted", "got", "reached"), rows)


def _phases(results: Results) -> str:
    head = ("case", "kernel", "us", "GB/s", "% of copy", "model, us", "measured / model")
    rows = []
    for each in results.phases:
        model = predicted_seconds(each.case, each.phase, each.copy_bandwidth)
        rows.append(
            (
                each.case.name,
                each.phase,
                microseconds(each.seconds),
                f"{each.bandwidth / 1e9:.0f}",
                f"{100 * each.copy_fraction:.0f}",
                microseconds(model),
                f"{each.seconds / model:.2f}",
            )
        )
    return table(head, rows)


def grouped(points: Iterable[Point]) -> dict[tuple[str, ...], list[Point]]:
    """By group of shapes, dtype, layout, cache and operation."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        key = (point.case.group, point.case.dtype, point.case.layout, point.cache)
        groups.setdefault((*key, point.operation), []).append(point)
    return groups


def _groups(results: Results) -> str:
    """Speed-ups of each group of shapes, as the geometric mean over its layers."""
    pairs = (("phases", KERNELS), ("phases", CUDNN), ("one call", CUDNN), ("one call", COMPILED))
    rows = [
        (*key, *(_mean(points, *pair) for pair in pairs))
        for key, points in grouped(results.points).items()
    ]
    head = (
        *("shapes", "dtype", "layout", "cache", "operation"),
        *("phases / torch's kernels", "phases / F.batch_norm"),
        *("one call / F.batch_norm", "one call / compiled (layers compiled)"),
    )
    return table(head, rows)


def _mean(points: Sequence[Point], subject: str, over: str) -> str:
    measured = [point for point in points if over in point.seconds]
    if not measured:
        return "-"
    share = "" if over != COMPILED else f" ({len(measured)} of {len(points)})"
    return f"{mean_speedup(measured, subject, over):.2f}{share}"


def _points(results: Results) -> str:
    head = (
        *("case", "cache", "operation", *NAMES),
        *("phases, GB/s", "phases, % of copy", "one call, % of copy"),
    )
    return table(head, map(_row, results.points))


def _row(point: Point) -> Sequence[object]:
    return (
        point.case.name,
        point.cache,
        point.operation,
        *(microseconds(point.seconds.get(name)) for name in NAMES),
        f"{point.bandwidth('phases') / 1e9:.0f}",
        f"{100 * point.copy_fraction('phases'):.0f}",
        f"{100 * point.copy_fraction('one call'):.0f}",
    )
