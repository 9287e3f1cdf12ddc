"""Time each phase by itself: one kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from .cases import Case
from .clock import Clock
from .model import TENSORS
from .subjects import Phases

# One kernel each, in this order.
PHASES = {"forward": ("moments", "normalize"), "backward": ("grad_moments", "grad_input")}


@dataclasses.dataclass(frozen=True)
class PhaseTime:
    """Seconds of one phase with cold caches."""

    case: Case
    phase: str
    seconds: float
    copy_bandwidth: float

    @property
    def key(self) -> tuple[str, str, str]:
        return self.case.name, self.case.group, self.phase

    @property
    def bandwidth(self) -> float:
        return TENSORS[self.phase] * self.case.nbytes / self.seconds

    @property
    def copy_fraction(self) -> float:
        return self.bandwidth / self.copy_bandwidth


def measure_phases(
    case: Case, subject: Phases, clock: Clock, repeat: int, copy_bandwidth: float
) -> Iterator[PhaseTime]:
    """Time each phase of `subject`, which has run forward before."""
    calls = {phase: getattr(subject, phase) for phase in TENSORS}
    for phase, seconds in clock.cold(calls, repeat).items():
        yield PhaseTime(case, phase, seconds, copy_bandwidth)


def phase_of(operation: str, kernel: str) -> str | None:
    """Return the phase that a kernel of syncnorm computes, or None for another kernel."""
    return next((phase for phase in PHASES[operation] if f"{phase}_kernel" in kernel), None)
