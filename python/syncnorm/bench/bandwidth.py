"""Measure the machine's copy bandwidth, the reference of the table's copy fractions."""

from __future__ import annotations

import statistics
import time

import torch

_BYTES = 256 << 20
_QUICK_BYTES = 64 << 20
_REPEAT = 9


def copy_bandwidth(quick: bool) -> float:
    """Time torch's `copy_` between two large buffers.

    Args:
        quick: Use smaller buffers.

    Returns:
        Bytes per second, read plus written.
    """
    size = (_QUICK_BYTES if quick else _BYTES) // 4
    source, target = torch.ones(size), torch.zeros(size)
    seconds = []
    for _ in range(_REPEAT):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(seconds)
