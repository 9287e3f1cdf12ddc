"""The curves of the three runs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .report import Results

# The single process lies under syncnorm where both agree: a wide pale line and a thin dark one.
_LINES = {
    "local": {"color": "#c44e52", "linewidth": 1.6},
    "single": {"color": "#a9c8e8", "linewidth": 5.0},
    "syncnorm": {"color": "#1f4e79", "linewidth": 1.6},
}
_BELOW_TO_ABOVE = ("single", "local", "syncnorm")


def write_curves(results: Results, path: Path) -> None:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    runs = {run.run: run for run in results.curves}
    for name in _BELOW_TO_ABOVE:
        run, style = runs[name], _LINES[name]
        steps = [point.step for point in run.points]
        loss.plot(steps, [point.loss for point in run.points], label=run.title, **style)
        accuracy.plot(steps, [100 * point.accuracy for point in run.points], **style)
    loss.set(xlabel="step", ylabel="training loss", yscale="log")
    accuracy.set(xlabel="step", ylabel="test accuracy, %")
    loss.legend()
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
    settings = results.settings
    figure.suptitle(
        f"Handwritten digits, {settings.ranks} ranks with {settings.batch_per_rank} samples each"
    )
    figure.savefig(path, dpi=130)
