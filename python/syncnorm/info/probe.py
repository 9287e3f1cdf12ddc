"""Import one framework and print facts about it as JSON: python -m syncnorm.info.probe torch."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def _torch() -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ("gloo", "mpi", "nccl", "ucc", "xccl")
    present = dist.is_available()
    return {
        "cuda": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(index) for index in range(count)],
        "backends": {
            name: present and bool(getattr(dist, f"is_{name}_available", bool)()) for name in names
        },
    }


def _mpi4py() -> dict[str, Any]:
    import mpi4py

    mpi4py.rc.initialize = False  # this process is no rank
    from mpi4py import MPI

    return {"library": MPI.Get_library_version().strip("\0\n ").partition(",")[0]}


_FACTS = {"torch": _torch, "mpi4py": _mpi4py}


def main(name: str) -> None:
    """Print version and facts of the framework as one line of JSON."""
    module = importlib.import_module(name)
    facts = {"version": getattr(module, "__version__", None)}
    if name in _FACTS:
        facts |= _FACTS[name]()
    print(f"\n{json.dumps(facts)}")


if __name__ == "__main__":
    main(sys.argv[1])
