"""python -m syncnorm info: what it reports, and what --check detects."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import syncnorm
from syncnorm.info import check, environment, main, processes, reference, report

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/info.md").read_text(encoding="utf-8")
FRAMEWORKS = ("torch", "numpy", "cupy", "jax", "mpi4py")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environ = {**os.environ, **variables}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=150, check=False, env=environ
    )


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return report.collect()


def line(found: dict[str, Any], name: str) -> str:
    lines = (line.split(maxsplit=1) for line in report.text(found).splitlines())
    return next(rest for first, rest in lines if first == name)


# ------------------------------------------------------------------------------------- the facts


def test_everything_is_named_and_no_framework_is_imported_here() -> None:
    done = run("-X", "importtime", "-m", "syncnorm", "info")
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & set(FRAMEWORKS)
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(lines) == [
        *("syncnorm", "library", "python", "CPU", "GPU", "CUDA", "NCCL"),
        *FRAMEWORKS,
        "job",
        *environment.VARIABLES,
    ]
    assert lines["numpy"] == metadata.version("numpy")
    assert syncnorm.capabilities()["cpu_isa"] in lines["CPU"]
    assert "distributed: gloo" in lines["torch"]
    assert "Open MPI" in lines["mpi4py"]


@pytest.mark.parametrize(
    ("facts", "name", "words"),
    [
        ({"cuda_built": False, "nccl": None}, "NCCL", "not found"),
        ({"cuda_built": False, "nccl": "2.29.7 (/lib)"}, "NCCL", "2.29.7 (/lib); not used"),
        ({"cuda_built": True, "nccl": None}, "NCCL", "not found"),
        ({"cuda_built": True, "nccl": "2.29.7 /lib/libnccl.so.2"}, "NCCL", "2.29.7 /lib"),
        ({"cuda_built": True, "cuda_devices": 2}, "CUDA", "built; 2 usable devices"),
        (
            {"cuda_built": True, "cuda_devices": 0, "cuda_problem": "the driver is too old"},
            "CUDA",
            "built; no usable device: the driver is too old",
        ),
        ({"cuda_built": False, "cuda_devices": 0}, "CUDA", "not in this build"),
    ],
)
def test_the_text_says_why(found, facts, name, words) -> None:
    assert line({**found, "syncnorm": {**found["syncnorm"], **facts}}, name).startswith(words)


def rows(heading: str) -> dict[str, str]:
    """Return the table below a heading of the page, by the first cell."""
    section = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [row.strip("|").split(" | ") for row in section.splitlines() if row.startswith("| `")]
    return {first.strip(" `"): rest.strip() for first, rest in cells}


def test_the_page_has_every_key(found) -> None:
    table = {
        name: set(re.findall(r"`(\w+)`", text))
        for names, text in rows("The JSON").items()
        for name in re.split("`, `", names)
    }
    assert found["format"] == 1
    assert set(found) == set(table) - {"check"}
    for name, value in found.items():
        if name == "environment":
            assert set(value["SYNCNORM_WATCH"]) == table[name]
        elif isinstance(value, dict):
            assert set(value) <= table[name], name
    assert set(found["torch"]["backends"]) <= table["torch"]


def test_the_tables_have_every_variable_that_is_read() -> None:
    reads = re.compile(
        r'getenv\("(SYNCNORM_\w+)"|environ(?:\.get\(|\[)"(SYNCNORM_\w+)"|\$ENV\{(SYNCNORM_\w+)\}'
    )
    read = set()
    for folder in ("core", "bindings", "python", "cmake"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".cpp", ".hpp", ".cuh", ".py", ".cmake", ".txt"}:
                for names in reads.findall(path.read_text(encoding="utf-8")):
                    read.update(filter(None, names))
    assert read == set(environment.VARIABLES)
    assert rows("Environment variables") == environment.VARIABLES


def test_variables_that_are_set_and_unknown_ones(found) -> None:
    variables = environment.variables({"SYNCNORM_WATCH": "1", "SYNCNORM_WACH": "1", "HOME": "/"})
    assert variables["SYNCNORM_WATCH"]["value"] == "1"
    assert variables["SYNCNORM_CPU_ISA"]["value"] is None
    assert variables["SYNCNORM_WACH"] == {"value": "1", "known": False, "meaning": None}
    assert "HOME" not in variables
    named = {**found, "environment": variables}
    assert line(named, "SYNCNORM_WATCH").startswith("set to 1 (")
    assert line(named, "SYNCNORM_WACH") == "1: unknown variable, nothing reads it"
    ignored = {**found, "environment": environment.variables({"SYNCNORM_CPU_ISA": "avx3"})}
    used = found["syncnorm"]["cpu_isa"]
    told = f"set to avx3, ignored: this machine uses {used} ("
    assert line(ignored, "SYNCNORM_CPU_ISA").startswith(told)
    missing = environment.variables({"SYNCNORM_NCCL_LIBRARY": "/no"})
    named = {**found, "environment": missing, "syncnorm": {**found["syncnorm"], "nccl": None}}
    assert line(named, "NCCL") == (
        "not found: SYNCNORM_NCCL_LIBRARY names /no, which cannot be loaded as NCCL"
    )


def test_a_framework_that_is_broken_ends_nothing_else(tmp_path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: no such file')\n")
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    (tmp_path / "mpi4py.py").write_text(crash)
    (tmp_path / "jax.py").write_text("print('a banner')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run("-m", "syncnorm", "info", "--json", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["torch"] == {
        "version": metadata.version("torch"),
        "problem": "import failed: ImportError: libcudart.so.13: no such file",
    }
    assert found["mpi4py"]["problem"] == "import failed: ended by SIGSEGV"
    assert (found["jax"]["version"], found["jax"]["problem"]) == (metadata.version("jax"), None)
    assert "import failed" in report.text(found)


def test_a_framework_that_is_missing(monkeypatch) -> None:
    names = {"jax": ("no-such-package",), "no_such_module": ("numpy",), "no_such": ("no-such",)}
    monkeypatch.setattr(report, "_FRAMEWORKS", names)
    found = report.collect()
    assert found["no_such"] == {"version": None, "problem": None}
    assert found["no_such_module"]["problem"] == "the package is installed, its module is missing"
    assert found["jax"]["version"] == metadata.version("jax")  # on the path, not from an index
    assert line(found, "no_such") == "not installed"


def nvidia_smi(folder: Path, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "echo 'NVIDIA H200, 143771 MiB, 580.95.05'; echo 'NVIDIA H200, 143771 MiB, 580.95.05'",
            "2 x NVIDIA H200 (143771 MiB); driver 580.95.05",
        ),
        (
            "echo 'no communication with the driver'; exit 9",
            "none found: nvidia-smi: no communication with the driver",
        ),
        ("true", "none found: nvidia-smi: it lists no GPU"),
        ("echo 'no library' >&2; exit 12", "none found: nvidia-smi: no library"),
    ],
)
def test_gpus(found, monkeypatch, tmp_path, script, words) -> None:
    nvidia_smi(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert line({**found, "gpu": report._gpu()}, "GPU") == words


def test_no_nvidia_smi(found, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    gpu = report._gpu()
    assert gpu == {"driver": None, "devices": [], "problem": "nvidia-smi is not installed"}


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "none: "),
        ({**TORCHRUN, "LOCAL_RANK": "1"}, "rank 1 of 2, local rank 1; from torchrun"),
        ({**TORCHRUN, "RANK": "x"}, "unclear: environment: got RANK='x'"),
        ({"PMIX_RANK": "0", "SLURM_LOCALID": "0"}, "rank 0 of an unknown number, local rank 0;"),
    ],
)
def test_job(found, monkeypatch, variables, words) -> None:
    for name in list(os.environ):
        if name.startswith(("OMPI_", "PMI", "SLURM_", "MV2_")) or name in TORCHRUN:
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert line({**found, "job": report._job(os.environ)}, "job").startswith(words)


# ------------------------------------------------------------------------------------- the check


def test_the_check_passes_within_a_job_too() -> None:
    variables = {**TORCHRUN, "LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    done = run("-m", "syncnorm", "info", "--check", "--json", **variables)
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    checks = {each["backend"]: each for each in found["check"] if "cpu" in each["devices"]}
    for name in ("threads", "mpi4py", "jax", "gloo"):
        assert checks[name]["status"] == "passed", checks[name]
        assert 0 < checks[name]["error"] < 1e-5
    assert all(each["status"] != "failed" for each in found["check"])
    keys = set(re.findall(r"`(\w+)`", rows("The JSON")["check"])) - {"check"}
    assert all(set(each) == keys for each in found["check"])


def only(monkeypatch: pytest.MonkeyPatch, *checks: check.Check) -> None:
    monkeypatch.setattr(check, "plan", lambda _: iter(checks))
    monkeypatch.setattr("syncnorm.info.collect", dict)


THREADS = check.Check("threads", ("cpu", "cpu"), "threads")


@pytest.mark.parametrize("name", ["y", "dx", "dweight", "dbias", "running_mean", "running_var"])
def test_a_wrong_number_fails(monkeypatch, capsys, name) -> None:
    def wrong(shards: Any) -> Any:
        results = reference.expected(shards)
        results[1][name][-1] += 1e-9
        return results

    only(monkeypatch, THREADS)
    monkeypatch.setattr(check, "expected", wrong)
    assert main(["--check", "--json"]) == 1
    (outcome,) = json.loads(capsys.readouterr().out)["check"]
    assert outcome["status"] == "failed"
    assert outcome["problem"].startswith("rank 1, float64: got an error of ")


@pytest.mark.parametrize("got", [[1.0], [1.0, float("nan")], [1.0, float("inf")], [], [1.0, 3.0]])
def test_no_wrong_array_is_accepted(got) -> None:
    assert reference.error({"y": [1.0, 2.0]}, {"y": [1.0, 2.0]}) == 0
    assert reference.error({"y": got}, {"y": [1.0, 2.0]}) >= 0.5
    assert reference.error({}, {"y": [1.0]}) > 1


def test_a_rank_that_fails_is_named(monkeypatch, capsys) -> None:
    unknown = check.Check("gloo", ("cpu", "cpu"), "no such kind", "ranks")
    only(monkeypatch, THREADS, unknown)
    assert main(["--check", "--json"]) == 1
    passed, failed = json.loads(capsys.readouterr().out)["check"]
    assert passed["status"] == "passed"
    assert failed["problem"] == "rank 0: KeyError: 'no such kind'"


def test_nothing_checked_is_no_success(monkeypatch, capsys) -> None:
    only(monkeypatch, check.Check("gloo", (), "torch", problem="torch: not installed"))
    assert main(["--check", "--json"]) == 1
    (skipped,) = json.loads(capsys.readouterr().out)["check"]
    assert (skipped["status"], skipped["problem"]) == ("skipped", "torch: not installed")


def test_the_checks_of_a_machine_with_gpus(found, monkeypatch) -> None:
    backends = dict.fromkeys(("gloo", "mpi", "nccl", "ucc", "xccl"), True)
    core = {**found["syncnorm"], "cuda_built": True, "cuda_devices": 2, "nccl": "2.29.7 (/lib)"}
    torch = {**found["torch"], "devices": ["H200", "H200"], "backends": backends}
    machine = {**found, "syncnorm": core, "torch": torch}
    checks = list(check.plan(machine))
    assert [(each.backend, each.devices) for each in checks if each.problem is None] == [
        *((name, ("cpu", "cpu")) for name in ("threads", "mpi4py", "jax", "gloo", "mpi", "ucc")),
        ("gloo", ("cuda:0", "cuda:0")),
        ("gloo", ("cuda:1", "cuda:1")),
        ("nccl", ("cuda:0", "cuda:1")),
        ("nccl, cupy", ("cuda:0", "cuda:1")),
    ]
    launched = {each.backend for each in checks if each.launch == "mpirun"}
    assert launched == {"mpi4py", "mpi"}


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({"torch": {"version": None, "problem": None}}, {"gloo": "torch: not installed"}),
        ({"torch": {"version": "2", "problem": "import failed"}}, {"gloo": "torch: import failed"}),
        (
            {"numpy": {"version": None, "problem": None}},
            dict.fromkeys(("threads", "mpi4py", "jax"), "numpy: not installed"),
        ),
        ({"mpi4py": {"version": None, "problem": None}}, {"mpi4py": "mpi4py: not installed"}),
        ({"jax": {"version": None, "problem": None}}, {"jax": "jax: not installed"}),
    ],
)
def test_a_check_that_cannot_run_says_why(found, changed, problems) -> None:
    checks = {each.backend: each.problem for each in check.plan({**found, **changed})}
    assert checks.items() >= problems.items()


def test_processes_are_ended_at_the_deadline(tmp_path) -> None:
    sleeps = [sys.executable, "-c", "import time; time.sleep(100)"]
    deaf = f"import signal, time; signal.signal({signal.SIGTERM:d}, signal.SIG_IGN); time.sleep(9)"
    start = time.monotonic()
    ended = processes.run_processes([sleeps, [sys.executable, "-c", deaf]], 2.0)
    assert time.monotonic() - start < 60
    assert [each.problem for each in ended] == [
        "still running when ended; the time limit is 2 s"
    ] * 2
