"""The measurements themselves: every subject on every case, with and without warm caches."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import rehearsal
from .cases import OPERATIONS, PASSES, Case, make_inputs
from .clock import Clock, host_seconds
from .subjects import Subject, subjects

CACHES = ("cold", "warm")
# Results that differ by more are not two computations of the same thing.
DISAGREEMENT = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


@dataclasses.dataclass(frozen=True)
class Point:
    """Seconds of each subject, for one operation on one case."""

    case: Case
    operation: str
    cache: str  # "cold": of every timing the first access to the data; "warm": they were just used
    seconds: dict[str, float]
    copy_bandwidth: float

    def bandwidth(self, subject: str) -> float:
        return PASSES[self.operation] * self.case.nbytes / self.seconds[subject]

    def copy_fraction(self, subject: str) -> float:
        return self.bandwidth(subject) / self.copy_bandwidth

    def speedup(self, subject: str, over: str) -> float:
        return self.seconds[over] / self.seconds[subject]


def kernels_of(device: str) -> ModuleType:
    return torch if device == "cuda" else rehearsal


def measure_case(
    case: Case, device: str, clock: Clock, repeat: int, copy_bandwidth: float
) -> Iterator[Point]:
    compared = subjects(make_inputs(case, device), kernels_of(device))
    check_agreement(case, compared)
    for operation in OPERATIONS:
        calls = {name: getattr(subject, operation) for name, subject in compared.items()}
        for cache in CACHES:
            seconds = getattr(clock, cache)(calls, repeat)
            yield Point(case, operation, cache, seconds, copy_bandwidth)


def check_agreement(case: Case, compared: dict[str, Subject]) -> None:
    """Raise RuntimeError where two subjects do not compute the same."""
    allowed = DISAGREEMENT[case.dtype]
    for operation in OPERATIONS:
        results = {name: getattr(each, operation)() for name, each in compared.items()}
        expected = results.pop("F.batch_norm")
        for name, got in results.items():
            error = relative_error(got, expected)
            if not error <= allowed:  # nor NaN
                raise RuntimeError(
                    f"{case.name}, {operation}: '{name}' differs from F.batch_norm by {error:.1e}"
                    f" of the largest value, expected at most {allowed:.0e}"
                )


def relative_error(got: Tensor, expected: Tensor) -> float:
    difference = (got.detach().float() - expected.detach().float()).abs().max()
    return float(difference / expected.detach().float().abs().max())


def measure_host(device: str, calls: int) -> dict[str, dict[str, float]]:
    """Seconds of the host per call on a small tensor, by operation and subject."""
    case = Case("host", (2, 8, 4, 4), "float32", "channels_first")
    compared = subjects(make_inputs(case, device), kernels_of(device))
    layers = {"layer": Layer(case, device), **array_functions(case, device), **compared}
    host: dict[str, dict[str, float]] = {}
    for operation in OPERATIONS:
        host[operation] = {}
        for name, subject in layers.items():
            subject.forward()
            host[operation][name] = host_seconds(getattr(subject, operation), device, calls)
    return host


def array_functions(case: Case, device: str) -> dict[str, Subject]:
    """Of CuPy, where it is installed; those of NumPy rehearse them."""
    if device == "cpu":
        from syncbn import numpy as functions
    elif importlib.util.find_spec("cupy"):
        from syncbn import cupy as functions
    else:
        return {}
    return {functions.__name__: ArrayFunctions(case, device, functions)}


class ArrayFunctions:
    """forward and backward of an array adapter, in a group of one."""

    def __init__(self, case: Case, device: str, functions: Any) -> None:
        inputs = make_inputs(case, device)
        mean = torch.zeros(case.shape[1], device=device)
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


class Layer:
    """syncbn.torch.SyncBatchNorm with autograd, in a group of one."""

    def __init__(self, case: Case, device: str) -> None:
        from syncbn.torch import SyncBatchNorm

        inputs = make_inputs(case, device)
        self._dy = inputs.dy
        self._x = inputs.x.requires_grad_()
        self._layer = SyncBatchNorm(case.shape[1], device=device)
        self._leaves: list[Any] = [self._x, self._layer.weight, self._layer.bias]
        self._y: Tensor | None = None

    def forward(self) -> Tensor:
        self._y = self._layer(self._x)
        return self._y

    def backward(self) -> Tensor:
        if self._y is None:
            raise RuntimeError("backward was called before forward")
        return torch.autograd.grad(self._y, self._leaves, self._dy, retain_graph=True)[0]
