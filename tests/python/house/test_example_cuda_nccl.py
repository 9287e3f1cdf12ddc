"""Example 04 compiles and links with CUDA and NCCL; tests/python/simt runs it without a device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from support.cmake_project import build
from support.packaged_nccl import WITHOUT_PACKAGE, packaged_library

EXAMPLE = Path(__file__).parents[3] / "examples/04_cuda_nccl"
OF_PYTHON = Path(sysconfig.get_path("purelib")) / "nvidia/cu13"


def toolkit() -> Path | None:
    """Where CUDA's headers are: beside nvcc, in the usual place, or in a package of Python."""
    nvcc = shutil.which(os.environ.get("CUDACXX", "nvcc"))
    beside = [Path(nvcc).resolve().parents[1]] if nvcc else []
    for folder in (*beside, Path("/usr/local/cuda"), OF_PYTHON):
        if (folder / "include/cuda_runtime_api.h").exists():
            return folder
    return None


@pytest.mark.skipif(packaged_library() is None, reason=WITHOUT_PACKAGE)
@pytest.mark.skipif(toolkit() is None, reason="no CUDA toolkit here")
def test_it_builds_and_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, library = packaged_library()
    monkeypatch.setenv("CUDA_HOME", str(toolkit()))
    program = build(EXAMPLE, tmp_path, f"-DNCCL_ROOT={library.parents[1]}") / "04_cuda_nccl"
    dynamic = subprocess.run(
        ["readelf", "--dynamic", program], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"NEEDED.*\[(\w+)\.so", dynamic))
    assert {"libsyncnorm", "libcudart", "libnccl"} <= needed

    done = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:  # there is a device
        assert len(re.findall(r"\S+ of \S+ allowed", done.stdout)) == 4
    else:
        assert done.stderr.startswith("CUDA: "), done.stdout + done.stderr
