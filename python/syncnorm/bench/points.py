"""Measures one case after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch

from .accuracy import Errors, Exact
from .cases import OPERATIONS, PASSES, Case, all_cases, make_inputs
from .measure import Timing, interleaved
from .settings import Settings
from .subjects import Subject, syncnorm_subject, torch_subject


@dataclasses.dataclass(frozen=True)
class Measured:
    """One operation of a point."""

    timing: Timing
    copy_fraction: float  # ours: the algorithm's least traffic per second / copy bandwidth


@dataclasses.dataclass(frozen=True)
class Point:
    """A row of the table: a case with a number of threads."""

    case: Case
    threads: int
    operations: dict[str, Measured]
    torch_errors: Errors
    our_errors: Errors


def measure_points(
    settings: Settings, copy_bandwidth: dict[int, float], tell: Callable[[str], None]
) -> Iterator[Point]:
    """All points in the order of the table; `tell` hears what is being measured."""
    for case in all_cases(settings.shapes, settings.dtypes, settings.layouts):
        inputs = make_inputs(case)
        subjects = torch_subject(inputs), syncnorm_subject(inputs, settings.path)
        for threads in settings.threads:
            torch.set_num_threads(threads)
            tell(f"{case.name}, {_thread_text(threads)}: error against float64")
            exact = Exact(inputs)
            torch_errors, our_errors = (exact.errors_of(subject) for subject in subjects)
            del exact
            operations = {}
            for operation in OPERATIONS:
                tell(f"{case.name}, {_thread_text(threads)}: {operation}")
                timing = _time(operation, subjects, settings.repeat)
                traffic = PASSES[operation] * case.nbytes / timing.ours
                operations[operation] = Measured(timing, traffic / copy_bandwidth[threads])
            yield Point(case, threads, operations, torch_errors, our_errors)


def _time(operation: str, subjects: tuple[Subject, Subject], repeat: int) -> Timing:
    theirs, ours = subjects
    if operation == "forward":
        return interleaved(theirs.forward, ours.forward, repeat)
    if operation == "backward":
        theirs.begin_backward()
        ours.begin_backward()
        return interleaved(theirs.backward, ours.backward, repeat)
    return interleaved(theirs.both, ours.both, repeat)


def _thread_text(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
