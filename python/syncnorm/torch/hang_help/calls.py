"""What this rank did last in a group, kept for the message of an error.

To record a call appends a tuple: this is on the way of every call. What the tuples say is read by
`positions`, when something has gone wrong.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from syncnorm import Error, Options

_CALLS_KEPT = 16
# For how many seconds a rank may make no call before its watch tells where it is.
_PATIENCE = 5.0


class Call(NamedTuple):
    """One pass of a layer; sums: how many sums of its group had begun before it."""

    layer: str | None
    phase: str
    tag: int
    options: Options
    dtype: torch.dtype
    shape: tuple[int, ...]
    sums: int


class Record:
    """The last calls of this rank in one group.

    sums: how many sums it has begun there. They meet one to one on all ranks, so the number names
    the same sum on each of them. changed: when the last call began or ended (time.monotonic).
    patience: how many seconds without a change are nothing to tell of. reports: how often a device
    reported that the ranks had disagreed. lost: the error after
    which the group is of no use, as its class and message: it would hold on to the call's tensors.
    """

    def __init__(self) -> None:
        # Each is what Call is made of. A plain tuple takes a third of the time.
        self._calls: deque[tuple[Any, ...]] = deque(maxlen=_CALLS_KEPT)
        self.tags = itertools.count(1)
        self.sums = self.reports = 0
        self.lost: tuple[type[Error], str] | None = None
        self.in_call = self.in_sum = False
        self.changed = time.monotonic()
        self.patience = _PATIENCE

    def begin(self, layer: str | None, phase: str, tag: int, options: Options, x: Tensor) -> None:
        """A pass begins."""
        self._calls.append((layer, phase, tag, options, x.dtype, x.shape, self.sums))
        self.in_call = True
        self.changed = time.monotonic()

    def end(self) -> None:
        """The pass is over, with or without an error."""
        self.in_call = self.in_sum = False
        self.changed = time.monotonic()

    def last(self) -> list[Call]:
        """The calls that are kept, the newest first."""
        return [Call(*call) for call in reversed(self._calls.copy())]
