"""Format the results as text tables."""

from __future__ import annotations

from .results import LAST_POINTS, Results, mean_accuracy


def tables(results: Results) -> str:
    """Return the table of accuracies and the table of differences."""
    return f"{_accuracy_table(results)}\n\n{_difference_table(results)}"


def _accuracy_table(results: Results) -> str:
    mean_title = f"mean of last {LAST_POINTS}"
    rows = [f"{'':<34}{'test accuracy':>15}{mean_title:>16}{'loss':>9}{'ms per step':>13}"]
    for run in results.full_runs:
        last = run.points[-1]
        rows.append(
            f"{run.title:<34}{100 * last.accuracy:>13.2f} %{100 * mean_accuracy(run):>14.2f} %"
            f"{last.loss:>9.4f}{1e3 * run.step_seconds:>13.2f}"
        )
    return "\n".join(rows)


def _difference_table(results: Results) -> str:
    title = "largest |syncnorm - single process|"
    rows = [f"{title:<34}{'parameters':>15}{'running statistics':>20}"]
    for difference in results.differences:
        name = f"{difference.dtype}, after {difference.step} steps"
        rows.append(f"{name:<34}{difference.parameters:>15.1e}{difference.statistics:>20.1e}")
    rows.append(
        "Only rounding differs (the order of summation); training amplifies it with every step."
    )
    return "\n".join(rows)
