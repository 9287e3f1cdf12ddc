"""Ranks as processes that share the device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def run_ranks(
    worker: Path, count: int, folder: Path, environment: dict[str, str], timeout: float
) -> list[Any]:
    """What each rank of `worker` saved as rank<number>.pt in the folder."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, **environment, "PYTHONPATH": path}
    logs = [folder / f"rank{rank}.log" for rank in range(count)]
    ranks = []
    for rank, log in enumerate(logs):
        command = [sys.executable, str(worker), str(rank), str(count), str(folder)]
        with log.open("w") as output:
            ranks.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
    try:
        codes = [rank.wait(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert not any(codes), "\n".join(log.read_text() for log in logs)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(count)]
