"""Plot the curves of the three runs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .results import Results

# The curves of syncnorm and of the single process coincide: a thin dark line over a wide pale one.
_LINES = {
    "single": {"color": "#a9c8e8", "linewidth": 5.0},
    "local": {"color": "#c44e52", "linewidth": 1.6},
    "syncnorm": {"color": "#1f4e79", "linewidth": 1.6},
}


def write_plot(results: Results, path: Path) -> None:
    """Write the plot of `results` as a PNG file to `path`."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    runs = {run.run: run for run in results.full_runs}
    for name, style in _LINES.items():
        run = runs[name]
        steps = [point.step for point in run.points]
        loss.plot(steps, [point.loss for point in run.points], label=run.title, **style)
        accuracy.plot(steps, [100 * point.accuracy for point in run.points], **style)
    loss.set(xlabel="step", ylabel="training loss", yscale="log")
    accuracy.set(xlabel="step", ylabel="test accuracy, %")
    loss.legend()
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
    config = results.config
    figure.suptitle(
        f"Handwritten digits, {config.ranks} ranks with {config.batch_per_rank} samples each"
    )
    figure.savefig(path, dpi=130)
