"""Worlds of MPI: mpirun starts the ranks, each runs a module of scenarios and saves what came out.

A module of scenarios has SCENARIOS: by name, functions of MPI.COMM_WORLD that every rank calls, in
their order. Run as a program, this file is one rank.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import mpirun as launched

Scenario = Callable[[Any], Any]
WAIT_SECONDS = 60.0  # for what comes, however slow the machine
SHORT = 0.3  # for what never comes


def mpirun(size: int, *program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program on `size` ranks. The ranks import what this process imports."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = (sys.executable, "-W", "error", *program)
    return launched.mpirun(size, *command, PYTHONPATH=path, **environment)


class World:
    """What every rank of a world of this size returned for each scenario of a module."""

    def __init__(self, size: int, folder: Path, scenarios: str) -> None:
        self.size = size
        done = mpirun(size, __file__, scenarios, str(folder))
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        self.results = [
            pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(size)
        ]

    def __getitem__(self, scenario: str) -> list[Any]:
        return [results[scenario] for results in self.results]


def _run_rank(scenarios: str, folder: str) -> None:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rank = world.rank
    module = importlib.import_module(scenarios)
    results = {name: run(world) for name, run in module.SCENARIOS.items()}
    Path(folder, f"rank{rank}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    _run_rank(sys.argv[1], sys.argv[2])
