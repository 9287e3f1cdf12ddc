"""The memory allocator's part in the timings.

By default glibc returns every large buffer to the system and faults fresh pages in for the next,
which costs more than normalizing it, on either side. These variables, read when a process starts,
let it keep and reuse what was freed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence

REUSE = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


def reuse_is_set() -> bool:
    return all(os.environ.get(name) == value for name, value in REUSE.items())


def has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def setting() -> str:
    """The setting under which this process measures, for people."""
    mine = {name: os.environ[name] for name in REUSE if name in os.environ}
    if not has_glibc():
        return "the system's default"
    if not mine:
        return "glibc default (large buffers are faulted in anew)"
    text = " ".join(f"{name}={value}" for name, value in mine.items())
    return f"glibc reuse ({text})" if reuse_is_set() else f"glibc with {text}"


def run_again_with_reuse(argv: Sequence[str]) -> int:
    """The same command in a process that has the variables from its start; its exit code."""
    command = [sys.executable, "-m", "syncnorm", "bench", *argv]
    return subprocess.run(command, env={**os.environ, **REUSE}, check=False).returncode
