"""Let glibc reuse large buffers, so that page faults do not dominate the timings.

By default glibc returns every large buffer to the system and faults in fresh pages for the next
one. That takes longer than normalizing the buffer, for torch and for syncnorm. glibc reads these
variables when a process starts; with them it keeps and reuses freed memory.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence

REUSE_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


def reuses_buffers() -> bool:
    """Return whether this process runs with all of `REUSE_VARIABLES`."""
    return all(os.environ.get(name) == value for name, value in REUSE_VARIABLES.items())


def has_glibc() -> bool:
    """Return whether this Python runs on glibc."""
    return platform.libc_ver()[0] == "glibc"


def describe() -> str:
    """Return the allocator setting of this process as text for the report."""
    variables = {name: os.environ[name] for name in REUSE_VARIABLES if name in os.environ}
    if not has_glibc():
        return "the system's default"
    if not variables:
        return "glibc default (large buffers are faulted in anew)"
    text = " ".join(f"{name}={value}" for name, value in variables.items())
    return f"glibc reuse ({text})" if reuses_buffers() else f"glibc with {text}"


def rerun_with_reuse(argv: Sequence[str]) -> int:
    """Run the benchmark in a new process with `REUSE_VARIABLES`; return its exit code."""
    command = [sys.executable, "-m", "syncnorm", "bench", *argv]
    return subprocess.run(command, env={**os.environ, **REUSE_VARIABLES}, check=False).returncode
