"""Measure every case: the points of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch

from .accuracy import Errors, Float64Reference
from .cases import OPERATIONS, PASSES, Case, all_cases, make_inputs
from .config import BenchConfig
from .subjects import Subject, syncnorm_subject, torch_subject
from .timing import time_rounds


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median seconds per call, and the median of the rounds' ratios ours / torch."""

    torch: float
    ours: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of one operation of a point.

    copy_fraction: syncnorm's minimum traffic in bytes per second / the copy bandwidth.
    """

    timing: Timing
    copy_fraction: float


@dataclasses.dataclass(frozen=True)
class Point:
    """One row of the table: a case with a number of threads."""

    case: Case
    threads: int
    operations: dict[str, Measured]
    torch_errors: Errors
    our_errors: Errors


def measure_points(
    config: BenchConfig, copy_bandwidth: dict[int, float], show_status: Callable[[str], None]
) -> Iterator[Point]:
    """Measure all points in the order of the table.

    Args:
        config: The benchmark's configuration.
        copy_bandwidth: Bytes per second, by number of threads.
        show_status: Called with a description of each measurement before it starts.

    Yields:
        Each point as soon as it is measured.
    """
    for case in all_cases(config.shapes, config.dtypes, config.layouts):
        inputs = make_inputs(case)
        subjects = torch_subject(inputs), syncnorm_subject(inputs, config.path)
        for threads in config.threads:
            torch.set_num_threads(threads)
            title = f"{case.name}, {threads} thread{'s' if threads > 1 else ''}"
            show_status(f"{title}: error against float64")
            reference = Float64Reference(inputs)
            torch_errors, our_errors = (reference.errors_of(subject) for subject in subjects)
            del reference
            operations = {}
            for operation in OPERATIONS:
                show_status(f"{title}: {operation}")
                timing = _time(operation, subjects, config.repeat)
                traffic = PASSES[operation] * case.nbytes / timing.ours
                operations[operation] = Measured(timing, traffic / copy_bandwidth[threads])
            yield Point(case, threads, operations, torch_errors, our_errors)


def _time(operation: str, subjects: tuple[Subject, Subject], repeat: int) -> Timing:
    calls = {}
    for name, subject in zip(("torch", "ours"), subjects, strict=True):
        if operation == "backward":
            subject.prepare_backward()
        calls[name] = getattr(subject, operation.replace("+", "_"))
    rounds = time_rounds(calls, repeat)
    return Timing(**rounds.medians(), ratio=rounds.ratios("torch")["ours"])
