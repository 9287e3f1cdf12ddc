"""How the project configures with and without a CUDA compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

SetGpus = Callable[..., None]
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


@pytest.fixture
def gpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> SetGpus:
    """Return a function that puts an nvidia-smi for GPUs of these capabilities on the PATH."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("CUDAARCHS", "SYNCNORM_CUDA_ARCHS"):
        monkeypatch.delenv(name, raising=False)

    def set_gpus(*capabilities: str) -> None:
        lines = "".join(f"echo {capability}; " for capability in capabilities)
        asked = 'case "$*" in *--query-gpu=compute_cap*csv,noheader*)'
        script(folder / "nvidia-smi", f"{asked} {lines or 'exit 6;'};; *) exit 9;; esac")

    set_gpus()
    return set_gpus


def script(path: Path, commands: str) -> Path:
    path.write_text(f"#!/bin/sh\n{commands}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def without_nvcc() -> list[str]:
    """Make CMake pass over every folder in which it would find nvcc."""
    folders = [*os.environ["PATH"].split(":"), "/usr/local/bin", "/usr/local/cuda/bin"]
    having = [folder for folder in folders if folder and (Path(folder) / "nvcc").exists()]
    homes = [f"{os.environ[name]}/bin" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    return [f"-DCMAKE_IGNORE_PATH={';'.join([*having, *homes, str(OF_PYTHON)])}"]


def test_without_nvcc_the_library_has_no_cuda(tmp_path, gpu):
    gpu("9.0")
    done, said = configure(tmp_path, *without_nvcc(), CUDACXX="")
    assert done.returncode == 0, said
    assert "no CUDA backend is built: nvcc was not found" in said


def test_without_nvcc_cuda_cannot_be_had(tmp_path):
    done, said = configure(tmp_path, "-DSYNCNORM_CUDA=ON", *without_nvcc(), CUDACXX="")
    assert done.returncode != 0
    assert "SYNCNORM_CUDA=ON, but nvcc was not found" in said
    assert "docs/building.md" in said


@pytest.mark.parametrize(("setting", "fails"), [("AUTO", False), ("ON", True)])
def test_an_nvcc_that_does_not_work_is_named(tmp_path, gpu, setting, fails):
    gpu("9.0")
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
def test_an_nvcc_is_found_again(tmp_path, gpu):
    """What one configure did not find is not taken as missing for ever."""
    gpu("9.0")
    done, said = configure(tmp_path, *without_nvcc(), CUDACXX="")
    assert "nvcc was not found" in said
    done, said = configure(tmp_path, CUDACXX=str(NVCC))
    assert done.returncode == 0, said
    assert "CUDA backend by nvcc" in said


@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
def test_the_named_architectures_are_taken(tmp_path, gpu):
    gpu("8.9")
    for _ in range(2):  # once more on what the first left in the cache
        done, said = configure(tmp_path, "-DCMAKE_CUDA_ARCHITECTURES=80;90", CUDACXX=str(NVCC))
        assert done.returncode == 0, said
        assert "for architectures 80;90 (set by CMAKE_CUDA_ARCHITECTURES or CUDAARCHS)" in said


@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
def test_the_architectures_follow_the_gpus_and_the_settings(tmp_path, gpu):
    """One build folder, configured again and again: nothing but the settings is kept."""

    def chosen(*options: str, **env: str) -> str:
        done, said = configure(tmp_path, *options, CUDACXX=str(NVCC), **env)
        assert done.returncode == 0, said
        return said.partition("for architectures ")[2].partition(")")[0]

    gpu("8.6", "9.0", "9.0")
    assert chosen().startswith("86-real;90 (of the visible GPUs, ")
    assert chosen(CUDAARCHS="75").startswith("75 (set by ")
    everything = chosen(SYNCNORM_CUDA_ARCHS="all")
    assert everything.startswith("75-real;80-real;86-real;89-real;90-real;")
    assert everything.endswith("(all, set by SYNCNORM_CUDA_ARCHS")
    gpu()
    assert chosen() == ""
    assert chosen(SYNCNORM_CUDA_ARCHS="all") == everything
    on = chosen("-DSYNCNORM_CUDA=ON")
    assert on.startswith("75-real;80-real;86-real;89-real;90-real;")
    assert "(all, because no supported GPU is visible, " in on
    assert chosen("-DSYNCNORM_CUDA=AUTO", "-DSYNCNORM_CUDA_ARCHS=all") == everything


def test_without_a_gpu_the_library_has_no_cuda(tmp_path, gpu):
    gpu()
    done, said = configure(tmp_path, CUDACXX="nvcc")
    assert done.returncode == 0, said
    assert "no CUDA backend is built: no GPU is visible to nvidia-smi" in said
    assert "SYNCNORM_CUDA=ON builds it for all architectures" in said
    assert "CMAKE_CUDA_COMPILER" not in (tmp_path / "CMakeCache.txt").read_text("utf-8")


@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
def test_without_a_supported_gpu_the_library_has_no_cuda(tmp_path, gpu):
    gpu("6.1")
    done, said = configure(tmp_path, CUDACXX=str(NVCC))
    assert done.returncode == 0, said
    assert "the visible GPUs have compute capability 6.1. Expected 7.5 or newer" in said


def test_a_choice_other_than_all_is_refused(tmp_path, gpu):
    done, said = configure(tmp_path, "-DSYNCNORM_CUDA_ARCHS=90")
    assert done.returncode != 0
    assert "SYNCNORM_CUDA_ARCHS is '90'. Expected 'all'" in said
    assert "Set CMAKE_CUDA_ARCHITECTURES" in said


KNOWN = "75 80 86 87 88 89 90 100 103 110 120 121"


def call(folder: Path, function: str, known: str, *arguments: str) -> str:
    """Call a function of SyncnormCudaArchitectures.cmake with an nvcc that knows `known`."""
    nvcc = script(folder / "nvcc", f"printf 'sm_%s\\n' {known}")
    program = folder / "script.cmake"
    program.write_text(
        f'include("{ROOT.as_posix()}/cmake/SyncnormCudaArchitectures.cmake")\n'
        f'{function}(found "{nvcc.as_posix()}" {" ".join(arguments)})\n'
        'message("${found}")\n',
        encoding="utf-8",
    )
    done = subprocess.run(["cmake", "-P", program], capture_output=True, text=True, check=True)
    return done.stderr.strip()


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (KNOWN, "75-real;80-real;86-real;89-real;90-real;100-real;120"),
        ("50 75 80 86 87 89 90", "75-real;80-real;86-real;89-real;90"),
        ("1000 1200 120", "120"),
    ],
)
def test_all_architectures_are_those_that_nvcc_knows(tmp_path, known, expected):
    assert call(tmp_path, "syncnorm_all_architectures", known) == expected


@pytest.mark.parametrize(
    ("known", "gpus", "expected"),
    [
        (KNOWN, ["90"], "90"),
        (KNOWN, ["75", "87", "121"], "75-real;87-real;121"),
        (KNOWN, ["61"], ""),
        (KNOWN, ["70", "80"], "80"),
        ("50 61 75 80", ["61", "80"], "80"),
        ("75 80 90", ["90", "100", "120"], "90"),
    ],
)
def test_the_architectures_of_gpus(tmp_path, known, gpus, expected):
    assert call(tmp_path, "syncnorm_architectures_of", known, *gpus) == expected
