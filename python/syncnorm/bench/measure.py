"""Timing several things side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SHORTEST_SAMPLE = 10e-3  # seconds; shorter calls are repeated within a sample

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds per call (medians over the rounds) and the median of the rounds' ratios."""

    torch: float
    ours: float
    ratio: float  # ours / torch


def interleaved(torch_call: Call, our_call: Call, repeat: int) -> Timing:
    rounds = time_rounds((torch_call, our_call), repeat)
    torch_seconds, our_seconds = medians(rounds)
    return Timing(
        torch=torch_seconds,
        ours=our_seconds,
        ratio=statistics.median(ours / theirs for theirs, ours in rounds),
    )


def time_rounds(calls: Sequence[Call], repeat: int) -> list[list[float]]:
    """Seconds per call, for each round and in it for each of `calls`.

    Rounds of one sample each, the order reversed from round to round, so that what slows the
    machine down slows all; the two warming calls are not counted.
    """
    counts = [_calls_per_sample(call) for call in calls]
    rounds = []
    for number in range(repeat):
        seconds = [0.0] * len(calls)
        order = range(len(calls))
        for index in order if number % 2 == 0 else reversed(order):
            seconds[index] = _sample(calls[index], counts[index])
        rounds.append(seconds)
    return rounds


def medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """The median over the rounds of each call."""
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _calls_per_sample(call: Call) -> int:
    _sample(call, 1)
    return max(1, round(_SHORTEST_SAMPLE / _sample(call, 1)))


def _sample(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
