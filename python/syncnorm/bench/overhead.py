"""What one call costs where there is next to nothing to compute."""

from __future__ import annotations

import dataclasses

from .measure import medians, time_rounds
from .ways import all_ways


@dataclasses.dataclass(frozen=True)
class Overhead:
    """Seconds of one call on an array of TINY_SHAPE, by the name of the way."""

    forward: dict[str, float]
    both: dict[str, float]  # forward+backward


def measure_overhead(repeat: int) -> Overhead:
    """All ways in the same rounds."""
    ways = all_ways()
    names = [way.name for way in ways]
    forward = medians(time_rounds([way.forward for way in ways], repeat))
    both = medians(time_rounds([way.both for way in ways], repeat))
    return Overhead(
        forward=dict(zip(names, forward, strict=True)), both=dict(zip(names, both, strict=True))
    )
