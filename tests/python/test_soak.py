"""The soak test on a few hundred steps, and that its report finds what a soak must not show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.soak.report import RSS_LIMIT, soak_errors  # noqa: E402
from tests.soak.training import Sample  # noqa: E402

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@LINUX
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_short_soak(kind: str) -> None:
    command = [sys.executable, "-m", "tests.soak", "--kind", kind, "--ranks", "3"]
    run = subprocess.run(
        [*command, "--steps", "120", "--every", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line for line in run.stdout.splitlines() if line.startswith(f"| 3 {kind}")]
    assert len(rows) == 3
    assert run.stdout.endswith("passed\n")


def samples(**last: object) -> list[Sample]:
    """Six samples without a fault, of which the last one is changed."""
    made = [
        Sample(step, 0.1, 100 * 2**20, 7, 3, 1.5, {"running_mean": np.ones(2)})
        for step in range(1, 7)
    ]
    for name, value in last.items():
        setattr(made[-1], name, value)
    return made


def test_the_report_passes_a_soak_without_a_fault() -> None:
    alone = samples()
    for sample in alone:
        sample.loss = 3.0
    assert soak_errors([samples(), samples()], alone) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"rss": 100 * 2**20 + RSS_LIMIT + 1}, "rank 1: RSS grew by"),
        ({"descriptors": 8}, r"rank 1: descriptors were \[7, 7, 7, 8\]"),
        ({"threads": 4}, r"rank 1: threads were \[3, 3, 3, 4\]"),
        ({"state": {"running_mean": np.nextafter(np.ones(2), 2)}}, "step 6: running_mean of rank"),
        ({"loss": 1.6}, "one process: differs by"),
        ({"loss": float("nan")}, "one process: differs by inf"),
    ],
)
def test_the_report_finds(fault: dict, message: str) -> None:
    alone = samples()
    for sample in alone:
        sample.loss = 3.0
    (error,) = soak_errors([samples(), samples(**fault)], alone)
    assert re.match(message, error), error
