"""How the project configures: inside another project, and with settings that it must refuse."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from house.test_cmake_cuda import NVCC

ROOT = Path(__file__).resolve().parents[3]
PARENT = f"""
cmake_minimum_required(VERSION 3.28)
project(parent LANGUAGES CXX)
add_subdirectory("{ROOT.as_posix()}" syncnorm)
get_target_property(kind syncnorm::syncnorm TYPE)
message(STATUS "kind=${{kind}} build_type=[${{CMAKE_BUILD_TYPE}}] flags=[${{CMAKE_CXX_FLAGS}}]")
message(STATUS "architectures=[${{CMAKE_CUDA_ARCHITECTURES}}]")
if(TARGET syncnorm_doctest)
  message(FATAL_ERROR "the tests were configured")
endif()
"""


def configure(source: Path, build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["cmake", "-S", source, "-B", build, *options],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_parent_project_is_left_alone(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(PARENT, encoding="utf-8")
    cuda = ["-DSYNCNORM_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={NVCC}"] if NVCC else []
    done = configure(tmp_path, tmp_path / "build", *cuda)
    assert done.returncode == 0, done.stderr
    assert "kind=SHARED_LIBRARY build_type=[] flags=[]" in done.stdout
    assert "architectures=[]" in done.stdout


def test_a_build_is_optimized_unless_told_otherwise(tmp_path):
    done = configure(ROOT, tmp_path, "-DSYNCNORM_BUILD_TESTS=OFF", "-DSYNCNORM_CUDA=OFF")
    assert done.returncode == 0, done.stderr
    assert "CMAKE_BUILD_TYPE:STRING=Release" in (tmp_path / "CMakeCache.txt").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-DSYNCNORM_CUDA=yes"], "Expected AUTO, ON or OFF"),
        (["-DSYNCNORM_CUDA=ON", "-DSYNCNORM_SIMT=ON"], "Expected one of them"),
        (["-DSYNCNORM_CUDA=OFF", "-DSYNCNORM_SANITIZE=memory"], "SYNCNORM_SANITIZE is 'memory'"),
    ],
)
def test_a_setting_that_cannot_be_met_is_refused(tmp_path, options, message):
    done = configure(ROOT, tmp_path, *options)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize("folder", ["core", "bindings"])
def test_every_source_is_built(folder):
    listed = (ROOT / folder / "CMakeLists.txt").read_text(encoding="utf-8").split()
    words = {word.rstrip(")") for word in listed}
    files = (path for path in (ROOT / folder).rglob("*") if path.suffix in {".cpp", ".cu"})
    sources = {path.relative_to(ROOT / folder).as_posix() for path in files}
    assert sources
    assert sources <= words


def test_the_presets_can_be_read():
    env = {**os.environ, "LC_ALL": "C"}
    shown = subprocess.run(
        ["cmake", "--list-presets=all"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("release", "asan", "tsan", "cuda", "simt", "simt-asan", "simt-tsan"):
        assert shown.stdout.count(f'"{name}"') == 3  # to configure, to build, to test
