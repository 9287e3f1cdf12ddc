"""Time of every subject on every case, with cold and with warm caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from types import ModuleType

import torch
from torch import Tensor

from . import rehearsal
from .cases import OPERATIONS, PASSES, Case, make_inputs
from .clock import Clock
from .phases import PhaseTime, measure_phases
from .subjects import CompiledBatchNorm, Phases, Subject, TorchBatchNorm, subjects

KERNELS, CUDNN, COMPILED = "torch kernels", "F.batch_norm", "compiled F.batch_norm"
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

    @property
    def key(self) -> tuple[str, ...]:
        return self.case.name, self.case.group, self.operation, self.cache

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
) -> Iterator[Point | PhaseTime]:
    """Time all subjects, then each phase of syncnorm.

    Raises:
        RuntimeError: two subjects compute different results.
    """
    compared = subjects(make_inputs(case, device), kernels_of(device))
    check_agreement(case, compared)
    for operation in OPERATIONS:
        calls = {name: getattr(subject, operation) for name, subject in compared.items()}
        for cache in CACHES:
            seconds = getattr(clock, cache)(calls, repeat)
            yield Point(case, operation, cache, seconds, copy_bandwidth)
    phases = compared["phases"]
    assert isinstance(phases, Phases)
    yield from measure_phases(case, phases, clock, repeat, copy_bandwidth)


def with_compiled(
    points: Sequence[Point], case: Case, device: str, clock: Clock, repeat: int
) -> list[Point]:
    """Return the points, those of `case` with the time of compiled F.batch_norm.

    Raises:
        RuntimeError: the compiled function computes other results.
    """
    inputs = make_inputs(case, device)
    compiled = CompiledBatchNorm(inputs)
    check_agreement(case, {COMPILED: compiled, CUDNN: TorchBatchNorm(inputs)})

    def timed(point: Point) -> Point:
        if point.case != case:
            return point
        call = {COMPILED: getattr(compiled, point.operation)}
        seconds = getattr(clock, point.cache)(call, repeat)
        return dataclasses.replace(point, seconds={**point.seconds, **seconds})

    return [timed(point) for point in points]


def check_agreement(case: Case, compared: dict[str, Subject]) -> None:
    """Raise RuntimeError where two subjects do not compute the same."""
    allowed = DISAGREEMENT[case.dtype]
    for operation in OPERATIONS:
        results = {name: getattr(each, operation)() for name, each in compared.items()}
        expected = results.pop(CUDNN)
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
