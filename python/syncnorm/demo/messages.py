"""Define the messages that the ranks send to the parent process."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """A point of the curves.

    loss: mean over all ranks and the steps since the last point. accuracy: on the test set, 0 to 1.
    """

    step: int
    loss: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run. step_seconds: median of the recent steps."""

    run: str
    title: str
    step: int
    steps: int
    step_seconds: float
    latest: CurvePoint | None
    new_point: bool


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of a run that has ended. step_seconds: median of all steps."""

    run: str
    title: str
    dtype: str
    points: list[CurvePoint]
    step_seconds: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest absolute differences between syncnorm and the single process after `step` steps.

    statistics: of the running means and variances.
    """

    dtype: str
    step: int
    parameters: float
    statistics: float


@dataclasses.dataclass(frozen=True)
class Failure:
    """The error that ended a rank."""

    rank: int
    traceback: str


Message = Progress | RunResult | Difference | Failure
