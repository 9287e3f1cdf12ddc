"""The recipe for Ray Train, with its own workers."""

from __future__ import annotations

from pathlib import Path

import problems
import torch
from scripts import run_script


def test_two_workers_are_like_one_process(tmp_path: Path) -> None:
    run_script("ray_training.py", "result.pt", folder=tmp_path)
    size, state = torch.load(tmp_path / "result.pt")
    assert size == 2
    problems.check(state)
