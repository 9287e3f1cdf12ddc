"""Example 05 builds on the LibTorch of torch's wheel, and agrees with its BatchNorm2d."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from support.cmake_project import PACKAGE, build

EXAMPLE = Path(__file__).parents[3] / "examples/05_libtorch"
CHECKED = ["y", "dx", "dweight", "dbias", *["running_mean", "running_var"] * 3]


@pytest.mark.skipif(
    torch.version.cuda is not None and shutil.which("nvcc") is None,
    reason="this torch's CMake package needs the CUDA toolkit",
)
@pytest.mark.timeout(600)  # torch's headers: 20 to 60 s
def test_it_agrees_with_batch_norm_2d(tmp_path: Path) -> None:
    found = f"-DCMAKE_PREFIX_PATH={PACKAGE};{torch.utils.cmake_prefix_path}"
    program = build(EXAMPLE, tmp_path, found) / "05_libtorch"
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = re.findall(r"^  (\w+) +(\S+) of (\S+) allowed$", done.stdout, re.MULTILINE)
    assert [name for name, *_ in lines] == CHECKED
    assert all(float(largest) <= float(allowed) < 1e-3 for _, largest, allowed in lines)
