"""Timing two things side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

_SHORTEST_SAMPLE = 10e-3  # seconds; shorter calls are repeated within a sample


@dataclass(frozen=True)
class Timing:
    """Seconds per call (medians over the rounds) and the median of the rounds' ratios."""

    torch: float
    ours: float
    ratio: float  # ours / torch


def interleaved(
    torch_call: Callable[[], object], our_call: Callable[[], object], repeat: int
) -> Timing:
    """Rounds of one sample each, the order swapped from round to round, so that what slows the
    machine down slows both; the two warming calls are not counted."""
    calls = (torch_call, our_call)
    counts = [_calls_per_sample(call) for call in calls]
    rounds: list[tuple[float, float]] = []
    for number in range(repeat):
        seconds = [0.0, 0.0]
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            seconds[side] = _sample(calls[side], counts[side])
        rounds.append((seconds[0], seconds[1]))
    return Timing(
        torch=statistics.median(pair[0] for pair in rounds),
        ours=statistics.median(pair[1] for pair in rounds),
        ratio=statistics.median(pair[1] / pair[0] for pair in rounds),
    )


def _calls_per_sample(call: Callable[[], object]) -> int:
    _sample(call, 1)
    return max(1, round(_SHORTEST_SAMPLE / _sample(call, 1)))


def _sample(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
