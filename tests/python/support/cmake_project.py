"""Builds CMake projects of somebody else on the installed package, and runs what comes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import syncnorm

PACKAGE = Path(syncnorm.__file__).parent
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"


def build(source: Path, folder: Path, *options: str) -> Path:
    """Configure the project in `source` and build it in `folder`, which is returned."""
    flags = [f"-DCMAKE_{language}_FLAGS={WARNINGS}" for language in ("C", "CXX")]
    found = f"-DCMAKE_PREFIX_PATH={PACKAGE.as_posix()}"
    configure = ["cmake", "--no-warn-unused-cli", "-S", source, "-B", folder, found, *flags]
    run(*configure, *options)
    run("cmake", "--build", folder)
    return folder


def run(*command: object) -> str:
    """Run a command that must succeed; what it printed, without blanks around it."""
    # The tools beside Python first: mpicxx comes with a package of Python's.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.strip()
