"""The ABI is the one that was reviewed and committed."""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import syncnorm

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).with_name("abi.txt")
LIBRARY = Path(syncnorm.__file__).parent / "lib/libsyncnorm.so"
ADVICE = (
    "The ABI changed. docs/abi.md says what may change in which release. If this is meant, run "
    "`make abi` and commit tests/python/house/abi.txt; what old programs cannot go on with needs a "
    "new minor version in core/include/syncnorm/version.h (from 1.0 on a new major version)."
)


def describe(include: Path) -> list[str]:
    command = [sys.executable, str(ROOT / "tools/abi"), str(include)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_abi_is_the_committed_one():
    committed = GOLDEN.read_text(encoding="utf-8").splitlines()
    present = describe(ROOT / "core/include")
    difference = list(difflib.unified_diff(committed, present, "committed", "present", "", "", 2))
    assert not difference, "\n".join([*difference, ADVICE])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF symbols")
def test_the_library_exports_the_committed_functions():
    command = ["nm", "--dynamic", "--defined-only", str(LIBRARY)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    exported = {line.split()[-1].partition("@")[0] for line in lines}
    golden = GOLDEN.read_text(encoding="utf-8")
    committed = set(re.findall(r"^function [^(]*?(\w+)\(", golden, re.MULTILINE))
    assert len(committed) > 25
    assert exported == committed, ADVICE


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("SYNCNORM_TIMEOUT = 6", "SYNCNORM_TIMEOUT = 9", "    SYNCNORM_TIMEOUT = 9"),
        (
            "int32_t num_threads; ",
            "int64_t num_threads; ",
            "    at 40, size 8: int64_t num_threads",
        ),
        ("int32_t cuda_built; ", "int64_t cuda_built; ", "struct syncnorm_capabilities: size 48,"),
        ("#define SYNCNORM_CONTROL_SIZE 16384", "#define SYNCNORM_CONTROL_SIZE 1", "_SIZE = 1"),
        ("{sizeof(syncnorm_options), 1e-5,", "{sizeof(syncnorm_options), 1e-3,", "1e-3, 0.1"),
        ("const char* reason);", "int reason);", "syncnorm_comm* comm, int reason)"),
    ],
)
def test_a_change_is_seen(tmp_path, old, new, line):
    include = shutil.copytree(ROOT / "core/include", tmp_path / "include")
    header = include / "syncnorm/syncnorm.h"
    text = header.read_text(encoding="utf-8")
    assert text.count(old) == 1
    header.write_text(text.replace(old, new), encoding="utf-8")
    changed = set(describe(include)) - set(GOLDEN.read_text(encoding="utf-8").splitlines())
    assert [found for found in changed if line in found]
