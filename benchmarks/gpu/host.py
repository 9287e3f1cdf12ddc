"""What a call costs the host: the time until it returns, on a tensor with next to no work in it."""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
import time
from typing import Any, Protocol

import torch

from .cases import OPERATIONS, Case, make_inputs
from .clock import Call, Timing
from .layers import LAYERS, LayerSubject, group_of_one
from .points import kernels_of
from .subjects import Subject, subjects

STATES = ("idle", "busy")
CASE = Case("host", (2, 8, 4, 4), "float32", "channels_first")
CALLS = 20
ROUNDS = 15


@dataclasses.dataclass(frozen=True)
class HostTime:
    """Seconds by subject; None: the call waited for the device, or could not be timed."""

    operation: str
    state: str  # of the device's queue: "idle", empty before each call; "busy", never empty
    seconds: dict[str, float | None]

    @property
    def key(self) -> tuple[str, str]:
        return self.operation, self.state


class HostClock(Protocol):
    def idle(self, call: Call) -> float:
        """Median seconds of a call, with nothing for the device to do before it."""

    def busy(self, call: Call) -> float | None:
        """Mean seconds of calls in a row, while the device has other work to do; None: waited."""


class CudaHostClock:
    _CYCLES = 20_000_000

    def __init__(self) -> None:
        self._sleep(self._CYCLES)
        self._seconds_per_cycle = Timing(lambda: self._sleep(self._CYCLES), 1).wait() / self._CYCLES

    def idle(self, call: Call) -> float:
        return statistics.median(self._alone(call) for _ in range(CALLS * ROUNDS))

    def busy(self, call: Call) -> float | None:
        sleep = 1e-3 + 4 * CALLS * self.idle(call)
        seconds = [self._behind(call, sleep) for _ in range(ROUNDS)]
        told = [each for each in seconds if each is not None]
        return statistics.median(told) if len(told) > ROUNDS / 2 else None

    def _alone(self, call: Call) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def _behind(self, call: Call, sleep: float) -> float | None:
        torch.cuda.synchronize()
        self._sleep(round(sleep / self._seconds_per_cycle))
        awake = torch.cuda.Event()
        awake.record()
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        seconds = (time.perf_counter() - start) / CALLS
        return None if awake.query() else seconds

    @staticmethod
    def _sleep(cycles: int) -> None:
        # One launch, however long it is. No public name, but torch's own tests use it.
        torch.cuda._sleep(cycles)  # noqa: SLF001


class CpuHostClock:
    """For rehearsals, without a queue."""

    def idle(self, call: Call) -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        return (time.perf_counter() - start) / CALLS

    busy = idle


def host_clock(device: str) -> HostClock:
    return CudaHostClock() if device == "cuda" else CpuHostClock()


def measure_host(device: str) -> list[HostTime]:
    clock = host_clock(device)
    found = []
    with group_of_one(device):
        compared = _subjects(device)
        for subject in compared.values():  # loads what it needs
            for _ in range(3):
                subject.forward()
                subject.backward()
        for operation in OPERATIONS:
            calls = {name: getattr(subject, operation) for name, subject in compared.items()}
            for state in STATES:
                time_of = getattr(clock, state)
                seconds = {name: time_of(call) for name, call in calls.items()}
                found.append(HostTime(operation, state, seconds))
    return found


def _subjects(device: str) -> dict[str, Subject]:
    layers = {name: LayerSubject(layer, CASE, device) for name, layer in LAYERS.items()}
    inputs = make_inputs(CASE, device)
    return {**layers, **_array_functions(device), **subjects(inputs, kernels_of(device))}


def _array_functions(device: str) -> dict[str, Subject]:
    """Of CuPy, where it is installed; those of NumPy rehearse them."""
    if device == "cpu":
        from syncnorm import numpy as functions
    elif importlib.util.find_spec("cupy"):
        from syncnorm import cupy as functions
    else:
        return {}
    return {functions.__name__: _ArrayFunctions(device, functions)}


class _ArrayFunctions:
    """forward and backward of an array adapter, in a group of one."""

    def __init__(self, device: str, functions: Any) -> None:
        inputs = make_inputs(CASE, device)
        mean = torch.zeros(CASE.shape[1], device=device)
        tensors = (inputs.x, inputs.weight, inputs.bias, mean, torch.ones_like(mean))
        self._arrays = [functions.xp.from_dlpack(tensor) for tensor in tensors]
        self._dy = functions.xp.from_dlpack(inputs.dy)
        self._functions = functions
        self._saved: Any = None

    def forward(self) -> Any:
        y, self._saved = self._functions.forward(*self._arrays)
        return y

    def backward(self) -> Any:
        return self._functions.backward(self._dy, self._saved).dx
