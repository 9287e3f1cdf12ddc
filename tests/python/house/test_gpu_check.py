"""tools/gpu_check.sh: what it records of steps that pass, fail, are missing or only rehearsed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import syncnorm

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tools" / "gpu_check.sh"
PACKER = ROOT / "tools" / "gpu_pack"
PACKAGE = Path(syncnorm.__file__).parent
FIRST = ("facts", "library", "correctness", "kernels", "counters")
SECOND = ("host", "training", "sanitizer")

# The fake python prints its arguments instead of testing or measuring.
ASKED = """case "$*" in "-m benchmarks.gpu"*|"-m pytest"*)
  echo "asked: $*, nccl=$SYNCNORM_NCCL_LIBRARY, first=$LD_PRELOAD"; exit 0;;
esac"""
# To compile takes half a minute, and the other steps of a dry run do not depend on it.
COMPILE_NOTHING = 'case "$*" in *" --parts kernels "*) set -- "$@" --compiled 0;; esac'


class Machine:
    """Fake programs that precede the real ones in PATH, and a pack that fits this interpreter."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.build, self.results, self.pack = (
            folder / name for name in ("programs", "build", "results", "pack")
        )
        self.programs.mkdir()
        self.add_python()
        self.add("nvidia-smi", "exit 9")
        self.add_pack()

    def add(self, name: str, script: str) -> None:
        program = self.programs / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    def add_python(self, instead: str = "") -> None:
        self.add("python", f'{instead}\nexec "{sys.executable}" "$@"')

    def add_pack(self, **manifest: str) -> None:
        """Pack links to the installed library, and tests that pass."""
        self.pack.mkdir(exist_ok=True)
        with tarfile.open(self.pack / "build.tar.xz", "w:xz", preset=0) as archive:
            for path in (*PACKAGE.glob("_core.*.so"), PACKAGE / "lib"):
                link = tarfile.TarInfo(f"python/syncnorm/{path.name}")
                link.type, link.linkname = tarfile.SYMTYPE, str(path)
                archive.addfile(link)
            for name in ("", "_shapes", "_streams"):
                self.add("test", "echo 'passing the current filters: 4'")
                archive.add(self.programs / "test", f"tests/cpp/test_backend_cuda{name}")
        facts = {
            "commit": "of the pack",
            "digest": digest(),
            "python": sysconfig.get_config_var("SOABI"),
            "architecture": "90",
            **manifest,
        }
        lines = [f"{name}: {value}" for name, value in facts.items()]
        (self.pack / "manifest").write_text("\n".join(lines), encoding="utf-8")

    def check(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": str(self.programs / "python"),
            "BUILD": str(self.build),
            "OUT": str(self.results),
            "PACK": str(self.pack),
        }
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def steps(self) -> dict[str, tuple[str, str]]:
        document = json.loads((self.results / "results.json").read_text(encoding="utf-8"))
        return {each["step"]: (each["result"], each["remark"]) for each in document["steps"]}

    def verdict(self) -> str:
        return self.summary().splitlines()[0]

    def summary(self) -> str:
        return (self.results / "summary.md").read_text(encoding="utf-8")

    def asked(self, log: str) -> list[str]:
        """Return the arguments of the fake python in a log."""
        with tarfile.open(self.results / "logs.tar.gz") as logs:
            text = logs.extractfile(f"logs/{log}.log")
            assert text is not None
            return re.findall("^asked: (.*)$", text.read().decode(), re.MULTILINE)


def digest() -> str:
    found = subprocess.run([PACKER, "--digest"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@pytest.fixture(name="machine")
def machine_without_a_device(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(name="gpu")
def machine_with_a_fake_gpu(machine: Machine) -> Machine:
    """Its programs pass and measure nothing."""
    machine.add(
        "nvidia-smi",
        'case "$1" in -L) echo "GPU 0: H0";; *=compute_cap) echo 9.0;; *) echo "H0, 1, 2, 9.0";;'
        " esac",
    )
    machine.add_python(ASKED)
    machine.add("ncu", "exit 0")
    machine.add("compute-sanitizer", "exit 0")
    return machine


@pytest.mark.parametrize("script", [SCRIPT, PACKER])
def test_the_scripts_are_valid(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_an_unknown_stage_is_refused(machine):
    done = machine.check("tset")
    assert done.returncode == 2
    assert "Usage" in done.stderr
    assert not machine.results.exists()


@pytest.mark.timeout(500)  # starts the benchmark three times; minutes on a loaded machine
def test_without_a_device_everything_is_rehearsed_and_nothing_verified(machine):
    machine.add_python(COMPILE_NOTHING)
    done = machine.check()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(name, result) for name, (result, _) in machine.steps().items()] == [
        (name, "rehearsed") for name in (*FIRST, *SECOND)
    ]
    assert machine.verdict() == "# GPU check: dry run: nothing was verified."
    names = {path.name for path in machine.results.iterdir()}
    benchmark = {f"benchmark.{suffix}" for suffix in ("md", "json", "png")}
    assert names == {"summary.md", "results.json", "logs.tar.gz", "training.png", *benchmark}
    compared = subprocess.run(
        [sys.executable, ROOT / "benchmarks/compare.py", *[machine.results / "benchmark.json"] * 2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert compared.stdout.splitlines()[-1].split() == ["geometric", "mean", "1.00"]


def test_both_stages_pass_and_ask_for_their_parts(gpu):
    gpu.results.mkdir()
    stale = gpu.results / "benchmark.json"
    stale.write_text("{}", encoding="utf-8")
    done = gpu.check()
    assert done.returncode == 0, done.stdout + done.stderr
    remarks = {"library": "unpacked, built from commit of the pack"}
    assert gpu.steps() == {name: ("passed", remarks.get(name, "")) for name in (*FIRST, *SECOND)}
    assert gpu.verdict() == "# GPU check: all steps passed."
    assert not stale.exists()
    for step, parts in {
        "kernels": "--parts kernels --seconds 100 --quick --groups large resnet50-32"
        " --dtypes bfloat16 float32",
        "counters": "--parts counters --seconds 40 --dtypes bfloat16",
        "host": "--parts host graphs --seconds 40 --quick",
        "training": "--parts training --seconds 55 --images 32",
    }.items():
        command = f"-m benchmarks.gpu --add --output {gpu.results} {parts}"
        assert gpu.asked(step) == [f"{command}, nccl=, first="]
    (command,) = gpu.asked("pytest")
    assert command.startswith("-m pytest tests/python/gpu -v")


def test_a_wrong_result_heads_the_summary_and_ends_the_check_after_the_first_stage(gpu):
    failing = "echo 'TEST CASE:  moments, of planes'; exit 1"
    gpu.add_python(
        'case "$*" in "-m pytest"*) echo "FAILED tests/test_x.py::test_y[1] - wrong"; exit 1;;'
        f" esac\n{ASKED}"
    )
    gpu.add("test", failing)
    with tarfile.open(gpu.pack / "build.tar.xz") as archive:
        archive.extractall(gpu.pack / "all", filter="fully_trusted")
    (gpu.programs / "test").replace(gpu.pack / "all/tests/cpp/test_backend_cuda_shapes")
    with tarfile.open(gpu.pack / "build.tar.xz", "w:xz", preset=0) as archive:
        archive.add(gpu.pack / "all", ".")
    done = gpu.check()
    assert done.returncode == 1
    assert tuple(gpu.steps()) == FIRST
    remark = "exit status 1; pytest: exit status 1; test_backend_cuda_shapes: exit status 1"
    assert gpu.steps()["correctness"] == ("FAILED", remark)
    assert gpu.steps()["kernels"] == ("passed", "")
    assert "correctness FAILED: run only the failing test under memcheck" in gpu.verdict()
    memcheck = "compute-sanitizer --tool memcheck"
    test = f"{gpu.build}/tree/tests/cpp/test_backend_cuda_shapes -tc='moments? of planes'"
    assert f"{memcheck} {test}" in gpu.summary().splitlines()
    assert re.search(f"{memcheck} .* -m pytest 'tests/test_x.py::test_y\\[1\\]'", gpu.summary())


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"python": "cpython-399"}, "the pack is for cpython-399, not for cpython.*"),
        ({"architecture": "75"}, "the pack is for sm_75, not for sm_90"),
    ],
)
def test_a_pack_that_does_not_fit_is_replaced_by_a_build(gpu, manifest, reason):
    gpu.add_pack(**manifest)
    (gpu.pack / "build.tar.xz").write_text("is not read", encoding="utf-8")
    gpu.add("nvcc", "exit 0")
    gpu.add(
        "cmake",
        f"""case "$1" in --build)
          mkdir -p "$2/python" "$2/tests/cpp"
          ln -s "{PACKAGE}" "$2/python/syncnorm"
          for name in "" _shapes _streams; do
            cp "{gpu.programs}/test" "$2/tests/cpp/test_backend_cuda$name"
          done
          echo "asked: $*";;
        esac""",
    )
    assert gpu.check("second").returncode == 0
    result, remark = gpu.steps()["library"]
    assert result == "passed"
    assert re.fullmatch(f"built here: {reason}", remark)
    (build,) = gpu.asked("library")
    assert build.startswith(f"--build {gpu.build}/built --parallel")
    assert "--target _core test_backend_cuda " in build


def test_a_pack_of_other_sources_is_used_with_a_warning(gpu):
    gpu.add_pack(digest="0000")
    gpu.check("second")
    result, remark = gpu.steps()["library"]
    assert result == "passed"
    assert "WARNING: the sources here differ from those of the pack" in remark


def test_without_a_library_nothing_is_run(gpu):
    gpu.add_pack(python="another")
    gpu.add("cmake", "echo no compiler; exit 3")
    gpu.add("nvcc", "exit 0")
    done = gpu.check("first")
    assert done.returncode == 1
    assert "no compiler" in done.stdout
    assert gpu.steps()["library"][0] == "FAILED"
    assert gpu.steps()["correctness"] == ("not run", "nothing is built")


def test_what_is_missing_is_named_and_does_not_fail(gpu):
    (gpu.programs / "ncu").unlink()
    done = gpu.check("first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert gpu.steps()["counters"] == ("not run", "ncu is missing")
    assert gpu.verdict().endswith("the steps that ran have passed; not run: counters.")


def test_a_sanitizer_that_complains_fails_the_check(gpu):
    gpu.add("compute-sanitizer", 'echo "ERROR SUMMARY: $2"; test "$2" != racecheck || exit 9')
    done = gpu.check("second")
    assert done.returncode == 1
    assert gpu.steps()["sanitizer"] == ("FAILED", "exit status 1; racecheck: exit status 9")
    assert "memcheck: ERROR SUMMARY: memcheck" in done.stdout
    assert gpu.verdict().endswith("1 of 5 steps failed: sanitizer.")


# -------------------------------------------------------------------------- stages by request

# Stands for cmake: "builds" an example that exits as the test says.
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
    gpu.add("nvcc", "exit 0")
    assert gpu.check("example").returncode == (exits != "0")
    assert gpu.steps()["example"] == result


def test_without_a_device_the_example_is_only_built(machine, nccl, monkeypatch):
    monkeypatch.setenv("EXAMPLE_EXITS", "4")
    machine.add("cmake", CMAKE)
    machine.add("nvcc", "exit 0")
    assert machine.check("example").returncode == 0
    assert machine.steps()["example"] == ("rehearsed", "")
    assert (machine.build / "example/04_cuda_nccl").exists()


def test_without_nccl_the_example_is_not_run(gpu, nccl):
    nccl.unlink()
    gpu.add("cmake", CMAKE)
    gpu.add("nvcc", "exit 0")
    assert gpu.check("example").returncode == 0
    assert gpu.steps()["example"] == ("not run", "NCCL_ROOT has no include/nccl.h")


def test_nccl_is_tested_again_with_the_library_that_is_named(gpu, tmp_path, monkeypatch):
    wheel = tmp_path / "nccl.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nvidia/nccl/lib/libnccl.so.2", "an NCCL")
    monkeypatch.setenv("SYNCNORM_NCCL_LIBRARY", str(wheel))
    gpu.check("first", "nccl")
    (pytest_of_first,) = gpu.asked("pytest")
    assert pytest_of_first.endswith("nccl=, first=")
    library = gpu.build / "nccl/nvidia/nccl/lib/libnccl.so.2"
    (asked,) = gpu.asked("nccl")
    assert asked.startswith("-m pytest tests/python/gpu/test_nccl.py")
    assert asked.endswith(f"nccl={library}, first={library}")
    assert library.read_text(encoding="utf-8") == "an NCCL"


def test_nccl_is_not_tested_without_a_name(gpu, monkeypatch):
    monkeypatch.delenv("SYNCNORM_NCCL_LIBRARY", raising=False)
    assert gpu.check("nccl").returncode == 0
    remark = "SYNCNORM_NCCL_LIBRARY is not set: expected an NCCL of 2.30 or newer"
    assert gpu.steps()["nccl"] == ("not run", remark)
