"""Bandwidth and speed-up of every shape in one picture; training steps in another."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .facts import line
from .points import KERNELS, Point
from .results import Results
from .tables import by_setting
from .training import VARIANTS

MARKERS = {
    ("float32", "channels_first"): ("o", "#1f4e79"),
    ("float32", "channels_last"): ("s", "#1f4e79"),
    ("float16", "channels_first"): ("o", "#dd8452"),
    ("float16", "channels_last"): ("s", "#dd8452"),
    ("bfloat16", "channels_first"): ("o", "#55a868"),
    ("bfloat16", "channels_last"): ("s", "#55a868"),
}


def write_plot(results: Results, path: Path) -> None:
    figure = Figure(figsize=(12, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True)
    for row, operation in enumerate(("forward", "backward")):
        chosen = [p for p in results.points if (p.operation, p.cache) == (operation, "cold")]
        for (dtype, layout), (marker, color) in MARKERS.items():
            points = [p for p in chosen if (p.case.dtype, p.case.layout) == (dtype, layout)]
            megabytes = [point.case.nbytes / 1e6 for point in points]
            style = {"marker": marker, "color": color, "label": f"{dtype}, {layout}"}
            axes[row][0].scatter(megabytes, [_percent(p) for p in points], **style)
            axes[row][1].scatter(megabytes, [p.speedup("phases", KERNELS) for p in points], **style)
        axes[row][0].set_ylabel(f"{operation}: phases, % of the copy's bandwidth")
        axes[row][1].set_ylabel(f"{operation}: time of torch's kernels / phases")
        for axis in axes[row]:
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
        axes[row][0].axhline(100, color="black", linewidth=1)
        axes[row][1].axhline(1, color="black", linewidth=1)
    for axis in axes[1]:
        axis.set_xlabel("size of x in MB; caches cold")
    figure.suptitle(f"syncnorm. {line(results.facts)}", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def _percent(point: Point) -> float:
    return 100 * point.copy_fraction("phases")


def write_training_plot(results: Results, path: Path) -> None:
    """A group of bars for each setting, of the step's time with each normalization."""
    settings = by_setting(results.training)
    figure = Figure(figsize=(12, 1 + 1.1 * len(settings)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(VARIANTS)
    for row, variant in enumerate(VARIANTS):
        chosen = [
            (place + row * height, of_setting[variant])
            for place, of_setting in enumerate(settings.values())
            if variant in of_setting and of_setting[variant].samples
        ]
        places = [place for place, _ in chosen]
        style = {"height": height, "label": variant}
        axes[0].barh(places, [1e3 * training.seconds for _, training in chosen], **style)
        axes[1].barh(places, [(training.peak_bytes or 0) / 1e9 for _, training in chosen], **style)
    axes[0].set_yticks(
        [place + 0.4 - height / 2 for place in range(len(settings))],
        [setting.name for setting in settings],
    )
    axes[0].invert_yaxis()
    axes[0].set_xlabel("a training step of ResNet-50, ms")
    axes[1].set_xlabel("its peak memory, GB")
    figure.suptitle(f"syncnorm. {line(results.facts)}", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)
