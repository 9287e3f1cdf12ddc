"""Seconds of device work: by events, with the host kept ahead of the device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Protocol

import torch

Call = Callable[[], object]


class Clock(Protocol):
    def cold(self, calls: dict[str, Call], repeat: int) -> dict[str, float]:
        """Median seconds of each call, with none of its data in the caches of the device."""

    def warm(self, calls: dict[str, Call], repeat: int) -> dict[str, float]:
        """Median seconds of each call, made again and again on the same data."""


class CudaClock:
    """The calls are timed in turn, so that what slows the device for a while slows all of them.

    Before each timing the device is kept busy for as long as the host needs to enqueue the calls:
    what is measured is the device alone, and never waits for the host.
    """

    WARM_CALLS = 8  # per timing

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        nbytes = max(4 * properties.L2_cache_size, 256 << 20)
        self._others = torch.zeros(nbytes // 4, device="cuda")
        self._read_others()
        torch.cuda.synchronize()
        self._seconds_busy = Timing(self._read_others, 20).wait()

    def cold(self, calls: dict[str, Call], repeat: int) -> dict[str, float]:
        return self._median(calls, repeat, warm_calls=0)

    def warm(self, calls: dict[str, Call], repeat: int) -> dict[str, float]:
        return self._median(calls, repeat, self.WARM_CALLS)

    def _median(self, calls: dict[str, Call], repeat: int, warm_calls: int) -> dict[str, float]:
        busy = {
            name: self._times_to_hide((warm_calls + 2) * _seconds_to_enqueue(call))
            for name, call in calls.items()
        }
        timings: dict[str, list[Timing]] = {name: [] for name in calls}
        for _ in range(repeat):
            for name, call in calls.items():
                for _ in range(busy[name]):
                    self._read_others()
                if warm_calls:
                    call()
                timings[name].append(Timing(call, warm_calls or 1))
            torch.cuda.synchronize()
        return {
            name: statistics.median(timing.wait() for timing in timed)
            for name, timed in timings.items()
        }

    def _read_others(self) -> None:
        """Fills the caches with other data, that need not be written back."""
        self._others.sum()

    def _times_to_hide(self, seconds: float) -> int:
        return 2 + math.ceil(seconds / self._seconds_busy)


def _seconds_to_enqueue(call: Call) -> float:
    """Of the host, once the first calls have loaded what they need."""
    seconds = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return statistics.median(seconds)


class Timing:
    """Of so many calls in a row, from when it is made."""

    def __init__(self, call: Call, times: int) -> None:
        self._times = times
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._begin.record()
        for _ in range(times):
            call()
        self._end.record()

    def wait(self) -> float:
        """Seconds of the device for one call."""
        self._end.synchronize()
        return 1e-3 * float(self._begin.elapsed_time(self._end)) / self._times


class CpuClock:
    """For rehearsals: the same interface, with the wall clock and without emptying caches."""

    def cold(self, calls: dict[str, Call], repeat: int) -> dict[str, float]:
        timings: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeat):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                timings[name].append(time.perf_counter() - start)
        return {name: statistics.median(timed) for name, timed in timings.items()}

    warm = cold


def clock_for(device: str) -> Clock:
    return CudaClock() if device == "cuda" else CpuClock()


def copy_bandwidth(clock: Clock, device: str, nbytes: int, repeat: int) -> float:
    """Bytes per second, read plus written, of a copy from device to device."""
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    seconds = clock.cold({"copy": lambda: target.copy_(source)}, repeat)["copy"]
    return 2 * nbytes / seconds
