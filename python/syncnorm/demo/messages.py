"""What the ranks tell the process that shows it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of the curves: after `step` steps."""

    step: int
    loss: float  # mean over all ranks and the steps since the last point
    accuracy: float  # on the test set, 0..1


@dataclasses.dataclass(frozen=True)
class Progress:
    run: str
    title: str
    step: int
    steps: int
    step_seconds: float  # median so far
    latest: Point | None
    new_point: bool


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run has ended."""

    run: str
    title: str
    dtype: str
    points: list[Point]
    step_seconds: float  # median


@dataclasses.dataclass(frozen=True)
class Difference:
    """Largest absolute difference of syncnorm from the single process, after `step` steps."""

    dtype: str
    step: int
    parameters: float
    statistics: float  # running means and variances


@dataclasses.dataclass(frozen=True)
class Failure:
    rank: int
    traceback: str


Message = Progress | Finished | Difference | Failure
