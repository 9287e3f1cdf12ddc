"""The SYNCNORM_* environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Every variable that the sources read; docs/info.md has the same table.
VARIABLES = {
    "SYNCNORM_CPU_ISA": "instruction set of the CPU kernels: generic, avx2, avx512 or neon",
    "SYNCNORM_CUDA_ARCHS": "GPU architectures of a build of the package, such as all or 80;90",
    "SYNCNORM_LEAK_WARNINGS": "if set, the bindings report objects that are alive at exit",
    "SYNCNORM_NCCL_LIBRARY": "path of the NCCL library to load",
    "SYNCNORM_WATCH": "1: the torch layers report an all-reduce that is late",
}


def variables(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return value, known and meaning of each SYNCNORM_* variable that is known or set."""
    names = VARIABLES.keys() | {name for name in environment if name.startswith("SYNCNORM_")}
    return {
        name: {
            "value": environment.get(name),
            "known": name in VARIABLES,
            "meaning": VARIABLES.get(name),
        }
        for name in sorted(names)
    }
