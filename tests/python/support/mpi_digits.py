"""Runs examples/python/mpi_digits.py, as it is and with its import changed to CuPy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).parents[3] / "examples" / "python" / "mpi_digits.py"
IMPORT = "from syncnorm import numpy as bn\n"

# Of the 1437 samples 239 are no multiple of 2 or 4, and the last step's 3 leave a rank of 4 empty.
BATCH, EPOCHS = 239, 2
STEPS = 14
SETTINGS = ["--dtype", "float64", "--batch", str(BATCH), "--epochs", str(EPOCHS)]

Arrays = dict[str, np.ndarray]


def for_cupy(folder: Path) -> Path:
    """A copy of the example with one import changed, as its documentation says."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count(IMPORT) == 1
    copy = folder / "mpi_digits_cupy.py"
    copy.write_text(text.replace(IMPORT, IMPORT.replace("numpy", "cupy")), encoding="utf-8")
    return copy


def arguments(path: Path) -> list[str]:
    """The example's command line, to save to `path`."""
    return [*SETTINGS, "--save", str(path)]


def alone(path: Path, *program: Path) -> Arrays:
    """What one process saves that mpirun has not started."""
    done = subprocess.run(
        [sys.executable, *program, *arguments(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return saved(done, path)


def saved(done: subprocess.CompletedProcess[str], path: Path) -> Arrays:
    """The network, its running statistics, and the losses."""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "test accuracy" in done.stdout
    with np.load(path) as arrays:
        return dict(arrays)


def largest_difference(actual: Arrays, expected: Arrays) -> float:
    """Over all arrays, each relative to its largest value."""
    assert actual.keys() == expected.keys()
    return max(
        float(np.abs(actual[name] - value).max() / np.abs(value).max())
        for name, value in expected.items()
    )
