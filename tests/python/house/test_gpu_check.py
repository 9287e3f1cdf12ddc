"""tools/gpu_check.sh: what it says of stages that pass, fail, are missing or only rehearsed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import syncnorm

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tools" / "gpu_check.sh"


class Machine:
    """A folder of programs that stand before the real ones, and a build that is there already."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.build, self.results = (
            folder / name for name in ("programs", "build", "results")
        )
        self.programs.mkdir()
        (self.build / "python").mkdir(parents=True)
        (self.build / "python" / "syncnorm").symlink_to(Path(syncnorm.__file__).parent)
        self.add_python()
        self.add("nvidia-smi", "exit 9")

    def add(self, name: str, script: str) -> None:
        program = self.programs / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    def add_python(self, instead: str = "") -> None:
        """With what it does instead. To find NCCL takes seconds, and is not what is tested here."""
        nccl = 'case "$*" in "-c import torch, syncnorm;"*) echo none; exit 0;; esac'
        self.add("python", f'{nccl}\n{instead}\nexec "{sys.executable}" "$@"')

    def check(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": str(self.programs / "python"),
            "BUILD": str(self.build),
            "OUT": str(self.results),
        }
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def stages(self) -> dict[str, tuple[str, str]]:
        document = json.loads((self.results / "results.json").read_text(encoding="utf-8"))
        return {each["stage"]: (each["result"], each["remark"]) for each in document["stages"]}

    def verdict(self) -> str:
        return (self.results / "summary.md").read_text(encoding="utf-8").splitlines()[0]


@pytest.fixture(name="machine")
def machine_without_a_device(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(name="gpu")
def machine_that_says_it_has_one(machine: Machine) -> Machine:
    machine.add("nvidia-smi", 'case "$1" in -L) echo "GPU 0: none";; *) echo "none, 1, 2";; esac')
    return machine


def test_the_script_is_valid():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_an_unknown_stage_is_refused(machine):
    done = machine.check("tset")
    assert done.returncode == 2
    assert "Usage" in done.stderr
    assert not machine.results.exists()


def test_without_a_device_the_benchmark_is_rehearsed_and_nothing_verified(machine):
    done = machine.check("bench")
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.stages() == {"bench": ("rehearsed", "")}
    assert machine.verdict() == "# GPU check: No GPU: nothing was verified."
    for name in ("benchmark.md", "benchmark.json", "benchmark.png", "logs.tar.gz"):
        assert (machine.results / name).stat().st_size > 0
    compared = subprocess.run(
        [sys.executable, ROOT / "benchmarks/compare.py", *[machine.results / "benchmark.json"] * 2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert compared.stdout.splitlines()[-1].split() == ["geometric", "mean", "1.00"]


def test_a_stage_that_passes(gpu):
    gpu.add("ctest", "exit 0")
    done = gpu.check("tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert gpu.stages() == {"tests": ("passed", "")}
    assert gpu.verdict() == "# GPU check: All stages passed."


def test_a_stage_that_fails_is_shown_and_fails_the_check(gpu):
    gpu.add("ctest", "echo the reason; exit 3")
    done = gpu.check("tests")
    assert done.returncode == 1
    assert "the reason" in done.stdout
    assert gpu.stages() == {"tests": ("FAILED", "exit status 3")}


def test_what_is_missing_is_named_and_does_not_fail(gpu):
    without = 'case "$*" in *"find_spec(\'pytest_timeout\')"*) exit 1;; esac'
    gpu.add_python(without)
    done = gpu.check("python")
    assert done.returncode == 0, done.stdout + done.stderr
    assert gpu.stages() == {"python": ("not run", "missing: Python's pytest_timeout")}
    assert "1 of 1 stages were not run" in gpu.verdict()


def test_without_a_build_nothing_is_run(gpu):
    (gpu.build / "python" / "syncnorm").unlink()
    gpu.add("ctest", "exit 0")
    assert gpu.check("tests").returncode == 0
    assert gpu.stages() == {"tests": ("not run", "nothing is built")}


# Stands for cmake: "builds" an example that is run as the test says.
CMAKE = """case "$1" in --build)
  mkdir -p "$2"; printf '#!/bin/sh\\nexit %s\\n' "$EXAMPLE_EXITS" > "$2/04_cuda_nccl"
  chmod +x "$2/04_cuda_nccl";;
esac"""


@pytest.fixture(name="nccl")
def nccl_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    header = tmp_path / "nccl/include/nccl.h"
    header.parent.mkdir(parents=True)
    header.touch()
    monkeypatch.setenv("NCCL_ROOT", str(tmp_path / "nccl"))
    return header


@pytest.mark.parametrize(
    ("exits", "result"), [("0", ("passed", "")), ("4", ("FAILED", "exit status 4"))]
)
def test_the_example_is_built_and_run(gpu, nccl, monkeypatch, exits, result):
    monkeypatch.setenv("EXAMPLE_EXITS", exits)
    gpu.add("cmake", CMAKE)
    assert gpu.check("example").returncode == (exits != "0")
    assert gpu.stages() == {"example": result}


def test_without_a_device_the_example_is_only_built(machine, nccl, monkeypatch):
    monkeypatch.setenv("EXAMPLE_EXITS", "4")
    machine.add("cmake", CMAKE)
    assert machine.check("example").returncode == 0
    assert machine.stages() == {"example": ("rehearsed", "")}
    assert (machine.build / "example/04_cuda_nccl").exists()


def test_without_nccl_the_example_is_not_run(gpu, nccl):
    nccl.unlink()
    assert gpu.check("example").returncode == 0
    assert gpu.stages() == {"example": ("not run", "missing: NCCL_ROOT with nccl.h")}


def test_a_sanitizer_that_complains_fails_the_check(gpu):
    tests = gpu.build / "tests" / "cpp"
    tests.mkdir(parents=True)
    for name in ("test_backend_cuda", "test_backend_cuda_shapes", "test_backend_cuda_streams"):
        test = tests / name
        test.write_text("#!/bin/sh\necho 'passing the current filters: 4'\n", encoding="utf-8")
        test.chmod(0o755)
    gpu.add("compute-sanitizer", 'test "$2" != racecheck || exit 9')
    done = gpu.check("sanitizer")
    assert done.returncode == 1
    log = [line for line in done.stdout.splitlines() if line.startswith(("memch", "racech"))]
    assert log == ["memcheck: no complaint", "racecheck: FAILED"]
    gpu.add("compute-sanitizer", "exit 0")
    assert gpu.check("sanitizer").returncode == 0


# -------------------------------------------------------------------------- stages by request

# Stands before Python: says what it was asked instead of measuring or testing.
ASKED = """case "$*" in "-m benchmarks.gpu"*|"-m pytest"*)
  echo "asked: $*, nccl=$SYNCNORM_NCCL_LIBRARY, first=$LD_PRELOAD"; exit 0;;
esac"""


def asked(machine: Machine, stage: str) -> str:
    with tarfile.open(machine.results / "logs.tar.gz") as logs:
        log = logs.extractfile(f"logs/{stage}.log")
        assert log is not None
        (line,) = re.findall("^asked: (.*)$", log.read().decode(), re.MULTILINE)
        return line


@pytest.fixture(name="asking")
def machine_that_says_what_it_is_asked(gpu: Machine) -> Machine:
    gpu.add_python(ASKED)
    return gpu


PARTS = {
    "bench": "--quick --parts host kernels --seconds 140",
    "full": "--parts host graphs kernels --seconds 360",
    "counters": "--parts counters --seconds 110",
    "resnet": "--parts training --seconds 360",
}


def test_the_benchmark_is_asked_for_its_parts_and_begins_anew(asking):
    asking.add("ncu", "exit 0")
    asking.results.mkdir()
    stale = asking.results / "benchmark.json"
    stale.write_text("{}", encoding="utf-8")
    assert asking.check(*PARTS).returncode == 0
    for stage, parts in PARTS.items():
        command = f"-m benchmarks.gpu --add --output {asking.results} {parts}"
        assert asked(asking, stage) == f"{command}, nccl=, first="
    assert asking.stages() == dict.fromkeys(PARTS, ("passed", ""))
    assert not stale.exists()


def test_nccl_is_tested_again_with_the_library_that_is_named(asking, tmp_path, monkeypatch):
    wheel = tmp_path / "nccl.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nvidia/nccl/lib/libnccl.so.2", "an NCCL")
    monkeypatch.setenv("SYNCNORM_NCCL_LIBRARY", str(wheel))
    asking.check("python", "nccl")
    assert asked(asking, "python").endswith("nccl=, first=")
    library = asking.build / "nccl/nvidia/nccl/lib/libnccl.so.2"
    assert asked(asking, "nccl").startswith("-m pytest tests/python/gpu/test_nccl.py")
    assert asked(asking, "nccl").endswith(f"nccl={library}, first={library}")
    assert library.read_text(encoding="utf-8") == "an NCCL"


def test_what_a_stage_by_request_lacks_is_named(gpu, monkeypatch):
    monkeypatch.delenv("SYNCNORM_NCCL_LIBRARY", raising=False)
    assert gpu.check("nccl", "counters").returncode == 0
    lacks = "missing: SYNCNORM_NCCL_LIBRARY, to name an NCCL from 2.30 on"
    assert gpu.stages() == {"nccl": ("not run", lacks), "counters": ("not run", "missing: ncu")}
