"""Time several calls side by side, in interleaved rounds."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SAMPLE_SECONDS = 10e-3  # shorter calls are repeated until one sample takes about this long
_SHORT_SAMPLE_SECONDS = 3e-3
_SHORT_SAMPLE_ROUNDS = 4  # for each round of ordinary samples

Call = Callable[[], object]


@dataclass(frozen=True)
class Rounds:
    """Seconds per call, one value per round, by the name of the call."""

    seconds: dict[str, list[float]]

    def medians(self) -> dict[str, float]:
        """Return the median seconds of every call."""
        return {name: statistics.median(samples) for name, samples in self.seconds.items()}

    def ratios(self, baseline: str) -> dict[str, float]:
        """Return, for every call, the median over the rounds of its time / the baseline's time.

        The two times of a ratio are from the same round, so load on the machine largely cancels.
        """
        references = self.seconds[baseline]
        return {
            name: statistics.median(map(float.__truediv__, samples, references))
            for name, samples in self.seconds.items()
        }


def time_rounds(
    calls: Mapping[str, Call],
    repeat: int,
    *,
    sample_seconds: float = SAMPLE_SECONDS,
    barrier: Callable[[], object] = lambda: None,
    agree: Callable[[int], int] = int,
) -> Rounds:
    """Time every call once per round, in random order; every second round reverses the last order.

    In a fixed order the rounds could stay in step with the scheduler, which would then preempt the
    same call in every round.

    Args:
        calls: The calls to time, by name.
        repeat: Number of rounds.
        sample_seconds: A call that takes less is repeated within a sample.
        barrier: Called before each sample; synchronizes the ranks if several time together.
        agree: Maps this rank's number of calls per sample to the number that all ranks use.

    Returns:
        The seconds per call of all rounds.
    """
    counts = {name: agree(_calls_per_sample(call, sample_seconds)) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle  # the same order on all ranks
    for number in range(repeat):
        if number % 2 == 0:
            shuffle(order)
        else:
            order.reverse()
        for name in order:
            barrier()
            seconds[name].append(_sample(calls[name], counts[name]))
    return Rounds(seconds)


def time_short_calls(calls: Mapping[str, Call], repeat: int, **hooks: Any) -> Rounds:
    """Time calls that take microseconds, by more rounds of shorter samples than `time_rounds`.

    Most short samples end before the scheduler preempts the process, so that the medians hold on a
    busy machine too.

    Args:
        calls: The calls to time, by name.
        repeat: As for `time_rounds`; 4 times as many rounds are run.
        **hooks: `barrier` and `agree` of `time_rounds`.
    """
    repeat *= _SHORT_SAMPLE_ROUNDS
    return time_rounds(calls, repeat, sample_seconds=_SHORT_SAMPLE_SECONDS, **hooks)


def _calls_per_sample(call: Call, sample_seconds: float) -> int:
    """Return how many calls fill a sample; the first call is a warm-up."""
    call()
    fastest = min(_sample(call, 1) for _ in range(3))  # one value alone may include a preemption
    return max(1, round(sample_seconds / fastest))


def _sample(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
