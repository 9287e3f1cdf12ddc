"""Run a training script of this folder, whose tool starts its own processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_script(name: str, *arguments: str, folder: Path) -> None:
    """Run the script in a folder; raise if it fails."""
    run_python(str(Path(__file__).with_name(name)), *arguments, folder=folder)


def run_python(*arguments: str, folder: Path, **variables: str) -> None:
    """Run Python in a folder, with the import path of the tests; raise if it fails."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
        cwd=folder,
        timeout=150,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
