"""Hold everything that was measured, and write it as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from .config import DemoConfig
from .messages import Difference, RunResult

LAST_POINTS = 5  # accuracies to average: a single one is noisy for so small a network


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of one demo. seconds: duration of all runs."""

    config: DemoConfig
    machine: dict[str, Any]
    train_samples: int
    test_samples: int
    runs: list[RunResult]
    differences: list[Difference]
    seconds: float

    @property
    def full_runs(self) -> list[RunResult]:
        """The three float32 runs, in the order of the table."""
        return [run for run in self.runs if run.dtype == "float32"]


def mean_accuracy(run: RunResult) -> float:
    """Return the mean test accuracy of the last points."""
    last = run.points[-LAST_POINTS:]
    return sum(point.accuracy for point in last) / len(last)


def write_json(results: Results, path: Path) -> None:
    """Write `results` as JSON to `path`."""
    document = {
        "settings": {**dataclasses.asdict(results.config), "output": str(path.parent)},
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
