"""What this rank did last in a process group, and how other ranks read it."""

from __future__ import annotations

import atexit
import json
import os
import time
from collections import deque
from math import isfinite
from threading import get_ident
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from syncnorm import Error, InvalidArgumentError, Options, UnsupportedError
from syncnorm.tags import UnnamedLayers

_CALLS_KEPT = 16
_CALLS_PUBLISHED = 4
# Options in which ranks may differ.
_FREE_OPTIONS = ("momentum", "variance_factor")

# States of a position. The last four are final: the rank publishes nothing newer for that
# all-reduce.
IN_CALL = "in call"
OUTSIDE = "outside"
FAILED = "failed"  # the group cannot continue
GAVE_UP = "gave up"  # the rank's timeout expired
NOTICED = "noticed"  # a device reported a disagreement some calls later
INTERRUPTED = "interrupted"  # by a signal or another exception
_FINAL = (FAILED, GAVE_UP, NOTICED, INTERRUPTED)
_STATES = (IN_CALL, OUTSIDE, *_FINAL)


class CallRecord(NamedTuple):
    """One pass of a layer. part: which of its all-reduces, from 1; 0 before the first."""

    layer: str | None
    phase: str
    tag: int
    shape: tuple[int, ...]
    dtype: str
    options: dict[str, Any]
    part: int = 0

    def is_valid(self) -> bool:
        """Return whether the fields have their types, which those of another rank may not."""
        return (
            (self.layer is None or isinstance(self.layer, str))
            and isinstance(self.phase, str)
            and isinstance(self.tag, int)
            and len(self.shape) > 1
            and all(isinstance(length, int) for length in self.shape)
            and isinstance(self.dtype, str)
            and isinstance(self.options, dict)
            and all(isinstance(value, str | float | int | None) for value in self.options.values())
            and isinstance(self.part, int)
        )


def is_fake(process_group: Any) -> bool:
    """Return whether the group's backend is the "fake" one of dry runs."""
    try:
        return "fake" in dist.get_backend(process_group)
    except (TypeError, ValueError):  # a group that torch.distributed did not create
        return False


class Record:
    """The last calls of this rank in one process group, and its state there."""

    def __init__(self, is_fake: bool = False) -> None:
        self.is_fake = is_fake  # the group's backend does not communicate
        # Tuples, which are interpreted after an error only: every call appends one.
        self._calls: deque[tuple[Any, ...]] = deque(maxlen=_CALLS_KEPT)
        self.unnamed = UnnamedLayers()
        # Outside of captures, of which ranks may make different ones.
        self.passes = 0  # forward passes begun
        self.sums = 0  # all-reduces begun; the number identifies an all-reduce on all ranks
        self.reports = 0  # disagreements that a device reported
        self.in_call = self.in_sum = False
        self.thread = 0  # of the pass
        # The error after which the group is unusable; itself it would keep tensors alive.
        self.lost: tuple[type[Error], str] | None = None
        self.devices: set[torch.device] = set()  # that the group's backends reduce
        self.changed = time.monotonic()  # the last begin or end of a call
        self.watched = False  # by the watchdog
        self.published = 0.0  # the value of `changed` that the watchdog published last
        self.patience = 5.0  # seconds without a change before it publishes the position

    def begin(self, layer: str | None, phase: str, tag: int, options: Options, x: Tensor) -> None:
        """Record the begin of a pass over x.

        Raises:
            InvalidArgumentError: Another thread is in a pass.
        """
        thread = get_ident()
        if self.in_call and self.thread != thread:
            raise InvalidArgumentError(
                f"process_group: is in a {self._calls[-1][1]} pass in another thread, expected one"
                " call at a time: the ranks could not tell the calls of two threads apart. Create a"
                " group for each thread with dist.new_group"
            )
        self.thread = thread
        self._calls.append((layer, phase, tag, options, x.dtype, x.shape, self.sums))
        self.in_call = True
        self.changed = time.monotonic()

    def end(self) -> None:
        """Record the end of the pass, with or without an error."""
        self.in_call = self.in_sum = False
        self.changed = time.monotonic()

    def last(self) -> list[CallRecord]:
        """Return the recorded calls, newest first."""
        calls: list[CallRecord] = []
        for layer, phase, tag, options, dtype, shape, sums in reversed(self._calls.copy()):
            shared = options.__getstate__()
            for free in _FREE_OPTIONS:
                shared.pop(free)
            part = self.sums - sums if self.in_call and not calls else 0
            name = str(dtype).removeprefix("torch.")
            calls.append(CallRecord(layer, phase, tag, tuple(shape), name, shared, part))
        return calls


class Position(NamedTuple):
    """Where a rank is, since when, and when it published that (wall-clock time, time.time())."""

    sum: int  # the number of the all-reduce that the rank is in, or of its next one
    state: str
    since: float
    published: float
    calls: tuple[CallRecord, ...]  # newest first

    @property
    def is_final(self) -> bool:
        """Whether the rank publishes nothing newer for this all-reduce."""
        return self.state in _FINAL

    def to_json(self) -> str:
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Position | None:
        """Return the position; None for a text that this version of syncnorm did not write."""
        try:
            number, state, since, published, calls = json.loads(text)
            records = [CallRecord(*call)._replace(shape=tuple(call[3])) for call in calls]
            position = cls(number, state, float(since), float(published), tuple(records))
        except (TypeError, ValueError, IndexError, KeyError, RecursionError, OverflowError):
            return None
        return position if position._is_valid() else None

    def _is_valid(self) -> bool:
        calls = self.calls
        return (
            isinstance(self.sum, int)
            and self.state in _STATES
            and isfinite(self.since)
            and isfinite(self.published)
            and len(calls) <= _CALLS_PUBLISHED
            and all(call.is_valid() for call in calls)
        )


def position_of(
    record: Record, final_state: str | None = None, report: int | None = None
) -> Position:
    """Return this rank's position in the record's group.

    final_state: FAILED, GAVE_UP or INTERRUPTED in the last all-reduce that began, or NOTICED.
    report: with NOTICED, the number of the device's report, in place of that of the all-reduce.
    """
    begun = record.in_sum or final_state is not None
    number = report or (record.sums if begun else record.sums + 1)
    state = final_state or (IN_CALL if record.in_call else OUTSIDE)
    now = time.time()
    since = now - (time.monotonic() - record.changed)
    return Position(number, state, since, now, tuple(record.last()[:_CALLS_PUBLISHED]))


def publish(process_group: Any, position: Position, topic: str = "where") -> None:
    """Write this rank's position, or raise RuntimeError if the group's store cannot be reached."""
    key = f"syncnorm/{topic}/{process_group.rank()}"
    process_group.get_group_store().set(key, position.to_json())


# Of this process's groups.
records: WeakKeyDictionary[Any, Record] = WeakKeyDictionary()
# torch may keep a group until the very end, after the core's objects in its record must be gone.
atexit.register(records.clear)


def _refuse_groups_of_parent() -> None:
    """In a forked child: make the existing groups unusable, since their threads are not here."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    text = (
        f"process_group: got a group of the parent in a forked child (process {os.getpid()}),"
        " expected a group that this process has created. Use the layer in eval mode, or start the"
        " process by 'spawn' or 'forkserver' and call dist.init_process_group in it"
    )
    for group in dist.distributed_c10d._world.pg_map:  # noqa: SLF001 - there is no public way
        records.setdefault(group, Record()).lost = UnsupportedError, text


os.register_at_fork(after_in_child=_refuse_groups_of_parent)
