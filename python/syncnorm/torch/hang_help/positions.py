"""Where a rank of a group is, as it tells the others."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from .calls import Call, Record

_CALLS_TOLD = 4
# What ranks may differ in without disagreeing.
_FREE_OPTIONS = ("momentum", "variance_factor")

IN_CALL = "in call"
OUTSIDE = "outside"
# The last word of a rank about a sum: the group could not go on, the rank waited for too long, or
# a device told of a disagreement some calls later.
FAILED = "failed"
GAVE_UP = "gave up"
NOTICED = "noticed"


@dataclass(frozen=True, slots=True)
class CallTold:
    """A call as other ranks are told of it. part: which of its sums, from 1; 0 before the first."""

    layer: str | None
    phase: str
    tag: int
    shape: tuple[int, ...]
    dtype: str
    options: dict[str, Any]
    part: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """Where a rank is, since when, and when it said so, by the clock of the world (time.time).

    sum: the sum of the group that it is in, or that will be its next. calls: the newest first.
    """

    sum: int
    state: str
    since: float
    told: float
    calls: tuple[CallTold, ...]

    @property
    def is_final(self) -> bool:
        """Whether the rank will tell nothing newer of this sum."""
        return self.state in (FAILED, GAVE_UP, NOTICED)

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes | str) -> Position:
        """What `to_json` wrote on another rank."""
        fields = json.loads(text)
        calls = (CallTold(**{**call, "shape": tuple(call["shape"])}) for call in fields["calls"])
        return cls(**{**fields, "calls": tuple(calls)})


def position_of(
    record: Record, last_word: str | None = None, report: int | None = None
) -> Position:
    """Where this rank is in the record's group.

    last_word: FAILED or GAVE_UP in the last sum that it began, or NOTICED with the number of the
    device's report in place of that of a sum.
    """
    calls = [_told(call) for call in record.last()[:_CALLS_TOLD]]
    if calls and record.in_call:
        calls[0] = replace(calls[0], part=record.sums - record.last()[0].sums)
    begun = record.in_sum or last_word is not None
    number = report or (record.sums if begun else record.sums + 1)
    state = last_word or (IN_CALL if record.in_call else OUTSIDE)
    now = time.time()
    since = now - (time.monotonic() - record.changed)
    return Position(number, state, since, now, tuple(calls))


def _told(call: Call) -> CallTold:
    options = call.options.__getstate__()
    for free in _FREE_OPTIONS:
        options.pop(free)
    dtype = str(call.dtype).removeprefix("torch.")
    return CallTold(call.layer, call.phase, call.tag, tuple(call.shape), dtype, options)
