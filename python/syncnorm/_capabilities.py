"""What was built and what was found, on the machine and in this process."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from syncnorm import _core

_MAPS = Path("/proc/self/maps")


def capabilities() -> dict[str, Any]:
    """What was built and what was found.

    version: of the core library. library: its path. cpu_isa: the instruction set in use.
    cuda_built: whether it has CUDA kernels. cuda_devices: how many are usable now. nccl: version
    and path of the NCCL that was found, or None. other_nccl: paths of other copies of NCCL that
    this process has loaded; a communicator of theirs cannot be borrowed. A copy that is linked into
    another library, as in some builds of frameworks, is not seen.
    """
    found = _core.capabilities()
    return {**found, "other_nccl": _other_nccl(found["nccl"])}


def _other_nccl(used: str | None) -> list[str]:
    """The files named libnccl.so* that are mapped, without the one in `used`: "version (path)"."""
    if not _MAPS.exists():
        return []
    mapped = {line.rstrip("\n").partition("/")[2] for line in _MAPS.read_text().splitlines()}
    copies = {f"/{path}" for path in mapped if re.match(r"libnccl\.so", path.rpartition("/")[2])}
    own = used is not None and re.search(r"\((/.*)\)", used)
    return sorted(copies - {os.path.realpath(own[1])} if own else copies)
