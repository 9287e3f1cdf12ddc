"""Plot the ratios of all points."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from syncnorm._cli.machine import machine_line

from .cases import OPERATIONS
from .results import Results, geometric_mean

_MARKERS = {
    "forward": ("<", "#55a868"),
    "backward": (">", "#dd8452"),
    "forward+backward": ("o", "#1f4e79"),
}
_TICKS = (0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


def write_plot(results: Results, path: Path) -> None:
    """Write the plot of `results` as a PNG file to `path`."""
    names = [f"{point.case.name}, {point.threads} thr" for point in results.points]
    figure = Figure(figsize=(9, 2 + 0.26 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for operation in OPERATIONS:
        marker, color = _MARKERS[operation]
        ratios = results.ratios(operation)
        label = f"{operation} (geometric mean {geometric_mean(ratios):.2f})"
        axes.scatter(ratios, range(len(names)), marker=marker, color=color, label=label, zorder=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(_TICKS)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.set_xlabel("time of syncnorm / time of torch (left of 1: syncnorm is faster)")
    axes.set_title(
        f"{machine_line(results.machine)}\npath: {results.config.path}; "
        f"allocator: {results.allocator.partition(' (')[0]}",
        fontsize=8,
    )
    figure.legend(loc="outside lower center", ncols=len(OPERATIONS), fontsize=8)
    figure.savefig(path, dpi=130)
