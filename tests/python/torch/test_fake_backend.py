"""Layers in dry runs, on torch's "fake" process groups."""

from __future__ import annotations

import os
import subprocess
import sys


def test_a_dry_run_is_no_disagreement() -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", "import fake_backend_rank"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
