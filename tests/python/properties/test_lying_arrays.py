"""Descriptions of arrays that are wrong are refused: properties that run in processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
from lying_arrays import PROPERTIES

PROGRAM = Path(__file__).with_name("lying_arrays.py")
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
DEADLINE = 7200 if LONG else 500


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_wrong_description_is_refused(name: str) -> None:
    command = [sys.executable, str(PROGRAM), name]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE)
            end = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            end = f"no end within {DEADLINE} s"
    examples = out.splitlines()
    assert end == "exit status 0", f"{end}; the last example was\n{examples[-1]}\n{err[-6000:]}"
    assert len(examples) >= 20
