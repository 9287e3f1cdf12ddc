"""The package without a framework: what it imports, exports and prints."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import syncnorm


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "module",
    [
        "syncnorm",
        "syncnorm.arrays",
        "syncnorm.comm",
        "syncnorm.launcher",
        "syncnorm.settings",
        "syncnorm.status_word",
        "syncnorm.__main__",
    ],
)
def test_import_needs_no_framework(module):
    program = f"""
import sys
for name in ("torch", "numpy", "cupy", "jax", "mpi4py"):
    sys.modules[name] = None  # importing it raises
import {module}
"""
    done = run("-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_exports():
    assert sorted(syncnorm.__all__) == syncnorm.__all__
    for name in syncnorm.__all__:
        assert getattr(syncnorm, name) is not None


def test_version_agrees_with_header_and_metadata():
    capabilities = syncnorm.capabilities()
    assert syncnorm.__version__ == capabilities["version"] == metadata.version("syncnorm")
    assert run("-m", "syncnorm", "--version").stdout.strip() == syncnorm.__version__


def test_capabilities():
    capabilities = syncnorm.capabilities()
    assert capabilities["cpu_isa"] in {"generic", "avx2", "avx512", "neon"}
    assert isinstance(capabilities["cuda_built"], bool)
    assert capabilities["cuda_devices"] >= 0
    assert (capabilities["cuda_problem"] is None) == (capabilities["cuda_devices"] > 0)
    assert capabilities["nccl"] is None or capabilities["nccl"]
    assert Path(capabilities["library"]).is_file()


@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("--cmake-dir", "syncnormConfig.cmake"),
        ("--include-dir", "syncnorm/syncnorm.h"),
        ("--library-dir", Path(syncnorm.capabilities()["library"] or "").name),
        ("--pkgconfig-dir", "syncnorm.pc"),
    ],
)
def test_directories_hold_the_cpp_package(option, file):
    done = run("-m", "syncnorm", option)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / file).is_file()


def test_command_line_errors():
    assert run("-m", "syncnorm").returncode == 2
    unknown = run("-m", "syncnorm", "info", "--nonsense")
    assert unknown.returncode == 2
    assert "--nonsense" in unknown.stderr
