"""Facts about this process and its objects that several rooms ask for."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The cores that this process may run on: mpirun often gives it one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def class_name(value: object) -> str:
    """Of the value's class, with its module: for messages."""
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
