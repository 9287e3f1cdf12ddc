"""Format the results as text tables."""

from __future__ import annotations

from collections.abc import Iterable

from .cases import OPERATIONS, TINY_SHAPE
from .overhead import BASELINE
from .points import Point, Timing
from .results import Results, geometric_mean
from .timing import Rounds


def table_header() -> str:
    """Return the two header lines of the table of points."""
    first = (
        f"{'':<35}{'thr':>4}{'torch / ours, ms':>26}{'':6}{'ours / torch':>20}{'':4}"
        f"{'of copy speed':>16}{'error of y, dx':>17}"
    )
    second = (
        f"{'':<39}{'forward':>16}{'backward':>16}{'forward':>8}{'backward':>9}{'both':>7}"
        f"{'forward':>8}{'backward':>9}{'torch':>8}{'ours':>8}"
    )
    return f"{first}\n{second}"


def table_row(point: Point) -> str:
    """Return one row of the table of points."""
    measured = [point.operations[operation] for operation in OPERATIONS]
    times = "".join(f"{_milliseconds(each.timing):>16}" for each in measured[:2])
    ratios = _ratio_columns(each.timing.ratio for each in measured)
    forward, backward = (100 * each.copy_fraction for each in measured[:2])
    errors = "".join(
        f"{max(errors.y, errors.dx):>8.0e}" for errors in (point.torch_errors, point.our_errors)
    )
    return (
        f"{point.case.name:<35}{point.threads:>4}{times}{ratios}"
        f"{forward:>6.0f} %{backward:>7.0f} %{errors}"
    )


def _ratio_columns(values: Iterable[float]) -> str:
    return "".join(f"{value:>{width}.2f}" for value, width in zip(values, (8, 9, 7), strict=True))


def _milliseconds(timing: Timing) -> str:
    return f"{1e3 * timing.torch:.2f} / {1e3 * timing.ours:.2f}"


def table_summary(results: Results) -> str:
    """Return the lines below the table of points, and the overhead table."""
    means = _ratio_columns(geometric_mean(results.ratios(name)) for name in OPERATIONS)
    ratios = results.ratios("forward+backward")
    slower = sum(ratio > 1 for ratio in ratios)
    worst = results.points[ratios.index(max(ratios))]
    bandwidths = ", ".join(
        f"{threads} thr {speed / 1e9:.1f} GB/s" for threads, speed in results.copy_bandwidth.items()
    )
    overhead = "\n".join(overhead_table(results.overhead))
    return (
        f"{'geometric mean':<71}{means}\n"
        f"forward+backward: slower than torch at {slower} of {len(ratios)} points; "
        f"highest ratio {max(ratios):.2f} at {worst.case.name}, {worst.threads} thr\n"
        f"copy speed (read + written): {bandwidths}. Traffic counts 2 reads + 1 write forward and\n"
        "4 + 1 backward, the minimum with an all-reduce in between. A group of one rank, or data\n"
        "in the cache, can exceed 100 %.\n"
        "errors: largest |result - float64 result| / largest |float64 result|\n\n"
        f"{overhead}"
    )


def overhead_table(overhead: dict[str, Rounds]) -> list[str]:
    """Return the lines of the overhead table."""
    title = f"one call on {'x'.join(map(str, TINY_SHAPE))}, 1 thread"
    columns = f"{'forward':>10}{'forward+backward':>19}"
    lines = [
        f"{title:<35}{'us':>29}{f'ratio to {BASELINE}':>31}",
        f"{'':<35}{columns}  {columns}",
    ]
    medians = [rounds.medians() for rounds in overhead.values()]
    ratios = [rounds.ratios(BASELINE) for rounds in overhead.values()]
    for name in medians[0]:
        forward, both = (1e6 * seconds[name] for seconds in medians)
        forward_ratio, both_ratio = (ratio[name] for ratio in ratios)
        lines.append(
            f"{name:<35}{forward:>10.1f}{both:>19.1f}  {forward_ratio:>10.2f}{both_ratio:>19.2f}"
        )
    return lines
