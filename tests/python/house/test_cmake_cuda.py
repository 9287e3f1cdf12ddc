"""How the project configures with and without a CUDA compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OF_PYTHON = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
NVCC = (
    shutil.which(os.environ.get("CUDACXX", "nvcc"))
    or shutil.which("nvcc", path="/usr/local/cuda/bin")
    or shutil.which("nvcc", path=str(OF_PYTHON))
)


def configure(
    build: Path, *options: str, **env: str
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Configure the library alone; give the process and all it said in one line."""
    done = subprocess.run(
        [
            *("cmake", "-S", ROOT, "-B", build, "-DSYNCNORM_BUILD_TESTS=OFF"),
            *(f"-DPython3_EXECUTABLE={sys.executable}", *options),
        ],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, " ".join((done.stdout + done.stderr).split())


def without_nvcc() -> list[str]:
    """Make CMake pass over every folder in which it would find nvcc."""
    folders = [*os.environ["PATH"].split(":"), "/usr/local/bin", "/usr/local/cuda/bin"]
    having = [folder for folder in folders if folder and (Path(folder) / "nvcc").exists()]
    homes = [f"{os.environ[name]}/bin" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    return [f"-DCMAKE_IGNORE_PATH={';'.join([*having, *homes, str(OF_PYTHON)])}"]


def test_without_nvcc_the_library_has_no_cuda(tmp_path):
    done, said = configure(tmp_path, *without_nvcc(), CUDACXX="")
    assert done.returncode == 0, said
    assert "no CUDA backend is built: nvcc was not found" in said


def test_without_nvcc_cuda_cannot_be_had(tmp_path):
    done, said = configure(tmp_path, "-DSYNCNORM_CUDA=ON", *without_nvcc(), CUDACXX="")
    assert done.returncode != 0
    assert "SYNCNORM_CUDA=ON, but nvcc was not found" in said
    assert "docs/building.md" in said


@pytest.mark.parametrize(("setting", "fails"), [("AUTO", False), ("ON", True)])
def test_an_nvcc_that_does_not_work_is_named(tmp_path, setting, fails):
    broken = shutil.which("false")
    done, said = configure(tmp_path, f"-DSYNCNORM_CUDA={setting}", CUDACXX=str(broken))
    assert (done.returncode != 0) == fails
    assert f"'{broken}' cannot compile with" in said
    assert "Set CUDACXX and CUDAHOSTCXX" in said


def test_simulated_devices_need_the_headers_of_cuda(tmp_path):
    """SYNCNORM_SIMT needs no compiler, but says where the headers can come from."""
    done, said = configure(
        tmp_path,
        "-DSYNCNORM_SIMT=ON",
        "-DSYNCNORM_CUDA_HEADERS=SYNCNORM_CUDA_HEADERS-NOTFOUND",
        "-DCMAKE_FIND_ROOT_PATH=/nowhere",
        "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY",
        CUDACXX="nvcc",
    )
    assert done.returncode != 0
    assert "needs CUDA's headers" in said
    assert "pip install --group cuda" in said


def test_cuda_can_be_left_out(tmp_path):
    done, said = configure(tmp_path, "-DSYNCNORM_CUDA=OFF")
    assert done.returncode == 0, said
    assert "CUDA backend" not in said
    assert "CMAKE_CUDA_COMPILER" not in (tmp_path / "CMakeCache.txt").read_text("utf-8")


@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
def test_an_nvcc_is_found_again(tmp_path):
    """What one configure did not find is not taken as missing for ever."""
    done, said = configure(tmp_path, *without_nvcc(), CUDACXX="")
    assert "nvcc was not found" in said
    done, said = configure(tmp_path, CUDACXX=str(NVCC))
    assert done.returncode == 0, said
    assert "CUDA backend by nvcc" in said


@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
def test_the_named_architectures_are_taken(tmp_path):
    for _ in range(2):  # once more on what the first left in the cache
        done, said = configure(tmp_path, "-DCMAKE_CUDA_ARCHITECTURES=80;90", CUDACXX=str(NVCC))
        assert done.returncode == 0, said
        assert "for architectures 80;90" in said


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (
            "75 80 86 87 89 90 100 103 120 121",
            "75-real;80-real;86-real;89-real;90-real;100-real;120",
        ),
        ("50 75 80 86 87 89 90", "75-real;80-real;86-real;89-real;90"),
        ("1000 1200 120", "120"),
    ],
)
def test_the_architectures_are_those_that_nvcc_knows(tmp_path, known, expected):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\nprintf 'sm_%s\\n' {known}\n", encoding="utf-8")
    nvcc.chmod(0o755)
    script = tmp_path / "script.cmake"
    script.write_text(
        f'include("{ROOT.as_posix()}/cmake/SyncnormCudaArchitectures.cmake")\n'
        f'syncnorm_cuda_architectures(found "{nvcc.as_posix()}")\n'
        'message("${found}")\n',
        encoding="utf-8",
    )
    done = subprocess.run(["cmake", "-P", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == expected
