"""Time of steps in a row, the host's part included, and the memory that a step takes."""

from __future__ import annotations

import time
from typing import Protocol

import torch

from .clock import Call, Timing


class Meter(Protocol):
    def seconds(self, call: Call, times: int) -> float:
        """Of each of so many calls in a row, after one that is not timed."""

    def peak_bytes(self, call: Call) -> int | None:
        """What a call takes at most, beyond what is there before it; None: unknown."""


class CudaMeter:
    def seconds(self, call: Call, times: int) -> float:
        call()  # the device still works on it when the next is enqueued, as in a training
        return Timing(call, times).wait()

    def peak_bytes(self, call: Call) -> int | None:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


class CpuMeter:
    """For rehearsals."""

    def seconds(self, call: Call, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times

    def peak_bytes(self, call: Call) -> int | None:
        call()
        return None


def meter_for(device: str) -> Meter:
    return CudaMeter() if device == "cuda" else CpuMeter()
