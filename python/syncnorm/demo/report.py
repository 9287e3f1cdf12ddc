"""The end of the demo: a table for the reader and a JSON with everything that was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from .messages import Difference, Finished
from .settings import Settings

_LAST_POINTS = 5  # accuracies averaged, since one evaluation of a small network is noisy


@dataclasses.dataclass(frozen=True)
class Results:
    settings: Settings
    machine: dict[str, Any]
    train_samples: int
    test_samples: int
    runs: list[Finished]
    differences: list[Difference]
    seconds: float

    @property
    def curves(self) -> list[Finished]:
        """The three full runs, in the order of the table."""
        return [run for run in self.runs if run.dtype == "float32"]


def mean_accuracy(run: Finished) -> float:
    last = run.points[-_LAST_POINTS:]
    return sum(point.accuracy for point in last) / len(last)


def table(results: Results) -> str:
    return f"{_accuracy_table(results)}\n\n{_difference_table(results)}"


def _accuracy_table(results: Results) -> str:
    mean_title = f"mean of last {_LAST_POINTS}"
    rows = [f"{'':<34}{'test accuracy':>15}{mean_title:>16}{'loss':>9}{'ms per step':>13}"]
    for run in results.curves:
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
        "Only rounding differs (sums run in another order); training magnifies it step by step."
    )
    return "\n".join(rows)


def write_json(results: Results, path: Path) -> None:
    document = {
        "settings": {**dataclasses.asdict(results.settings), "output": str(path.parent)},
        "machine": results.machine,
        "train_samples": results.train_samples,
        "test_samples": results.test_samples,
        "runs": [
            {**dataclasses.asdict(run), "mean_accuracy": mean_accuracy(run)} for run in results.runs
        ],
        "differences": [dataclasses.asdict(difference) for difference in results.differences],
        "seconds": results.seconds,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
