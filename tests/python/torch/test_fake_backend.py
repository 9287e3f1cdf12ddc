"""Layers in dry runs, on torch's "fake" process groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("backend", "rank"), [("fake", 0), ("cpu:fake", 5)])
def test_a_dry_run_is_no_disagreement(backend: str, rank: int) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fake_backend_rank.py")), backend, str(rank)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
