"""Facts about this process and its objects, shared by several packages."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return the number of CPU cores in this process's affinity mask; mpirun often sets one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def class_name(value: object) -> str:
    """Return the qualified name of the value's class, for messages: "numpy.ndarray"."""
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
