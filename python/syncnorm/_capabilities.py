"""Capabilities of the loaded core library, the machine and this process."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from syncnorm import _core

_MAPS = Path("/proc/self/maps")


def capabilities() -> dict[str, Any]:
    """Return what the core library supports and which devices and libraries it found.

    Returns:
        A dictionary with the keys
            version: Version of the core library.
            library: Path of the core library, or None if it is unknown.
            cpu_isa: Instruction set in use: "generic", "avx2", "avx512" or "neon".
            cuda_built: Whether the library contains the CUDA backend.
            cuda_devices: Number of usable CUDA devices.
            cuda_problem: Why there is no usable CUDA device, such as a missing driver or one that
                is older than the CUDA runtime of this build. None if there is a device.
            nccl: Version and path of NCCL, such as "2.29.7 (/usr/lib/libnccl.so.2)", or None.
            other_nccl: Paths of other copies of NCCL that this process has loaded. borrow_nccl
                cannot use their communicators. A copy that is linked statically into another
                library, as in some builds of frameworks, is not listed.
    """
    found = _core.capabilities()
    return {**found, "other_nccl": _other_nccl(found["nccl"])}


def _other_nccl(used: str | None) -> list[str]:
    """Return the mapped files libnccl.so* without the one in `used`, which is "version (path)"."""
    if not _MAPS.exists():
        return []
    mapped = {line.rstrip("\n").partition("/")[2] for line in _MAPS.read_text().splitlines()}
    copies = {f"/{path}" for path in mapped if re.match(r"libnccl\.so", path.rpartition("/")[2])}
    path_in_use = used is not None and re.search(r"\((/.*)\)", used)
    return sorted(copies - {os.path.realpath(path_in_use[1])} if path_in_use else copies)
