"""The tools that guard the build: each passes what is right and catches what is wrong."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[3] / "tools"


def run(*command: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def stage(*command: object, **env: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, TOOLS / "stage", *command, **env)


def test_a_stage_within_its_budget_passes():
    done = stage("quick", 60, "true", BUDGET_SCALE="1")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "== quick (budget 60 s)"
    assert done.stdout.splitlines()[-1].startswith("== quick: passed in ")


def test_the_last_stage_leaves_the_end_to_its_command():
    done = stage("--last", "quick", 60, "echo", "the closing line")
    assert done.stdout.splitlines()[-1] == "the closing line"


def test_a_failing_stage_fails():
    done = stage("wrong", 60, "false")
    assert done.returncode == 1
    assert "== wrong: FAILED" in done.stdout


def test_a_stage_over_its_budget_is_ended_with_its_children():
    started = time.monotonic()
    done = stage("slow", 10, "sh", "-c", "sleep 30 & wait", BUDGET_SCALE="0.05")
    assert done.returncode == 124
    assert "over its budget" in done.stdout
    assert time.monotonic() - started < 15


def test_preflight_names_everything_in_one_line(tmp_path):
    for program in ("sh", "mktemp", "rm", "make"):
        (tmp_path / program).symlink_to(shutil.which(program))
    done = run(tmp_path / "sh", TOOLS / "preflight", PATH=str(tmp_path), CXX="no-such-compiler")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    for part in ("git", "C++20 compiler", "python3"):
        assert part in line
    assert "make" not in line.partition(":")[2]


def test_preflight_prints_the_python_it_was_given():
    done = run(TOOLS / "preflight", sys.executable)
    assert done.stdout.strip() == sys.executable, done.stderr


@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("objdump") is None,
    reason="disassembles x86-64 code",
)
@pytest.mark.parametrize(("namespace", "leaks"), [("avx2", False), ("elsewhere", True)])
def test_wide_registers_outside_their_namespace_are_found(tmp_path, namespace, leaks):
    source = tmp_path / "kernel.cpp"
    source.write_text(
        "#include <immintrin.h>\n"
        f"namespace {namespace} {{ void twice(float* x) {{\n"
        "  _mm256_storeu_ps(x, _mm256_add_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(x)));\n"
        "} }\n",
        encoding="utf-8",
    )
    library = tmp_path / "kernel.o"
    built = run(os.environ.get("CXX", "c++"), "-O2", "-mavx2", "-c", source, "-o", library)
    assert built.returncode == 0, built.stderr
    done = run(sys.executable, TOOLS / "check_isa_leak", library)
    assert done.returncode == int(leaks), done.stderr
    assert ("twice" in done.stdout) == leaks
