"""Errors of a call over a process group, which say where every rank was."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from syncnorm import (
    CommunicatorTimeoutError,
    DesyncError,
    Error,
    InternalError,
    RankLostError,
)
from syncnorm.tags import UnnamedLayers, pass_number_of

from .records import (
    FAILED,
    GAVE_UP,
    IN_CALL,
    INTERRUPTED,
    NOTICED,
    OUTSIDE,
    CallRecord,
    Position,
    Record,
    position_of,
    publish,
)
from .store import announce_loss, is_lost, within

# Seconds to wait for the positions of other ranks: those that failed in the same all-reduce publish
# at once. _SETTLED: until a position that is not final counts as the newest; also how long to wait
# for the other ranks to read.
_DEADLINE = 5.0
_SETTLED = 1.0
_PAUSE = 0.02
# Bytes of a position. More are not ours, and not worth parsing.
_LONGEST = 1 << 16
_SHAPES_SHOWN = 3

_SILENT = (
    "published nothing (ended, in no call, or cannot reach the store; SYNCNORM_WATCH=1 tells which)"
)
_LOST = "The process group is unusable from now on."
_ADVICE = (
    "Every rank must make the same calls in the same order, with the same channels and options. If"
    " a rank is only slow, raise the timeout."
)
_ABORT_TAG = 0x5BAD
# Seconds: after Ctrl-C only the other ranks need the positions.
_INTERRUPTED_WAIT = 0.25


def raise_lost(lost: tuple[type[Error], str]) -> None:
    """Raise the error that later calls in the group get."""
    kind, text = lost
    raise kind(text)


def disagreement(
    process_group: Any, record: Record, text: str, timeout: float | None
) -> DesyncError:
    """Return the error for a disagreement that a device reports some calls later."""
    record.reports += 1
    mine = position_of(record, NOTICED, record.reports)
    _, where = _exchange(process_group, mine, "reports", timeout)
    return DesyncError(f"{text}:\n{where}")


def explain(
    process_group: Any, record: Record, error: BaseException, timeout: float | None
) -> Error | None:
    """Return the error to raise in place of `error`; None to keep it.

    If an all-reduce did not end, the group is aborted first, so that the ranks that wait in it fail
    at once and publish their positions.
    """
    if isinstance(error, DesyncError):
        mine = position_of(record, FAILED)
        _, where = _exchange(process_group, mine, "where", timeout)
        return DesyncError(f"{error}:\n{where}")
    if not record.in_sum:
        return None
    _lose(record, InternalError, f"{type(error).__name__} interrupted an all-reduce")
    abort(process_group)
    if not isinstance(error, RuntimeError):  # KeyboardInterrupt, or what a signal handler raised
        exchange(process_group, position_of(record, INTERRUPTED), timeout=_INTERRUPTED_WAIT)
        return None
    # Backends have no error class for a timeout. The words are those of gloo, NCCL and torch.
    state = GAVE_UP if "timed out" in str(error).lower() else FAILED
    positions, where = _exchange(process_group, position_of(record, state), "where", timeout)
    text = f"an all-reduce of the group failed ({str(error).partition('. ')[0]}):\n{where}\n{_LOST}"
    kind: type[Error] = RankLostError
    if any(position.state == GAVE_UP for position in positions.values()):
        kind, text = CommunicatorTimeoutError, f"{text} {_ADVICE}"
    _lose(record, kind, text)
    return kind(text)


def abort(process_group: Any) -> None:
    """Make the all-reduces fail in which other ranks wait for this one.

    Only the neighbors of a dead rank see its connections end, and then those of its neighbors. A
    rank that waits for a healthy one learns from the store.
    """
    announce_loss(process_group)
    if not _has_gloo(process_group):
        return  # NCCL's watchdog aborts its communicators
    # abort() and shutdown() of gloo's process groups do nothing, and a receive that times out
    # closes all connections. No rank sends with this tag.
    with suppress(RuntimeError):
        work = process_group.recv_anysource([torch.empty(1)], _ABORT_TAG)
        work.wait(timedelta(milliseconds=1))


def abort_if_lost(process_group: Any) -> None:
    """Abort the group if another rank has lost it."""
    if is_lost(process_group):
        abort(process_group)


def _has_gloo(process_group: Any) -> bool:
    try:
        backend = process_group._get_backend(torch.device("cpu"))  # noqa: SLF001
    except RuntimeError:  # no backend for the CPU
        return False
    name: str = backend.name()
    return name == "gloo"


def _lose(record: Record, kind: type[Error], text: str) -> None:
    record.lost = kind, f"{_LOST} An earlier call failed: {text}"


def _exchange(
    process_group: Any, mine: Position, topic: str, timeout: float | None
) -> tuple[dict[int, Position], str]:
    """Return the positions by global rank, and the lines that describe them."""
    try:
        ranks = dist.get_process_group_ranks(process_group)
    except KeyError:  # a group that torch.distributed did not create
        ranks = list(range(process_group.size()))
    found, problem = exchange(process_group, mine, topic, timeout)
    positions = {ranks[rank]: position for rank, position in found.items()}
    where = describe(positions, ranks, time.time())
    if problem:
        where += f"\n  (the store of the group could not be reached: {problem})"
    return positions, where


def exchange(
    process_group: Any, mine: Position, topic: str = "where", timeout: float | None = None
) -> tuple[dict[int, Position], str]:
    """Publish this rank's position, and read those of the others.

    Args:
        process_group: The group.
        mine: This rank's position.
        topic: Positions of one topic are compared.
        timeout: Seconds to wait for the positions of others, if less than the default.

    Returns:
        The positions of the ranks that arrived in time, by rank, and why the store could not be
        used, or "".
    """
    found = {process_group.rank(): mine}
    deadline = _DEADLINE if timeout is None else min(_DEADLINE, timeout)
    settled = min(_SETTLED, deadline)

    def run() -> None:
        publish(process_group, mine, topic)
        _collect(process_group, mine, topic, found, deadline, settled)

    problem = within(deadline + settled, run)
    return found.copy(), problem


def _collect(
    process_group: Any,
    mine: Position,
    topic: str,
    found: dict[int, Position],
    deadline: float,
    settled: float,
) -> None:
    """Add the positions of the other ranks to found."""
    store, size = process_group.get_group_store(), process_group.size()
    began = time.monotonic()
    while (waited := time.monotonic() - began) < deadline:
        missing = [rank for rank in range(size) if rank not in found or not found[rank].is_final]
        if not missing or (waited > settled and len(found) == size):
            break
        for rank in missing:
            key = f"syncnorm/{topic}/{rank}"
            if store.check([key]):  # get() alone would wait for a missing key
                text = store.get(key)
                position = Position.from_json(text) if len(text) <= _LONGEST else None
                if position is not None and position.sum == mine.sum:
                    found[rank] = position
        time.sleep(_PAUSE)
    # Wait until the other failed ranks have read, since the store may end with this process.
    prefix = f"syncnorm/{topic}/{mine.sum}/read by"
    store.set(f"{prefix} {process_group.rank()}", "")
    readers = [f"{prefix} {rank}" for rank, position in found.items() if position.is_final]
    began = time.monotonic()
    while not store.check(readers) and time.monotonic() - began < settled:
        time.sleep(_PAUSE)


def describe(positions: Mapping[int, Position], ranks: Iterable[int], now: float) -> str:
    """Return one line for all ranks at the same place; positions: of those that published one."""
    current = [position.calls[0].options for position in positions.values() if position.calls]
    names = current[0] if current else {}
    differing = [name for name in names if len({options.get(name) for options in current}) > 1]
    places: dict[tuple[str, str, str] | None, list[int]] = {}
    for rank in ranks:
        place = _place(positions[rank], differing) if rank in positions else None
        places.setdefault(place, []).append(rank)
    lines = []
    for place, here in places.items():
        text = _SILENT
        if place is not None:
            text = _text(*place, [positions[rank] for rank in here], now)
        lines.append(f"  {rank_list(here)}: {text}")
    return "\n".join(lines)


def layer_text(name: str | None, tag: int = 0) -> str:
    """Return how a message names a layer."""
    return UnnamedLayers.text(tag) if name is None else repr(name)


def rank_list(ranks: Iterable[int]) -> str:
    """Return a text such as `ranks 0-2, 5`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"rank{'' if texts == [str(runs[0][0])] else 's'} {', '.join(texts)}"


def _place(position: Position, differing: list[str]) -> tuple[str, str, str]:
    """Return the state and the texts before and after the input's shape; alike at one place."""
    if not position.calls:
        return position.state, "", ""
    call, *earlier = position.calls
    work = [f"{name}={call.options[name]!r}" for name in differing if name in call.options]
    after = ", ".join([call.dtype, *work])
    if earlier:
        after += f"; before it {', '.join(map(_call_text, earlier))}"
    return position.state, f"{_call_text(call)}, {call.shape[1]} channels", after


def _text(state: str, before: str, after: str, positions: list[Position], now: float) -> str:
    shapes = list(dict.fromkeys(str(p.calls[0].shape) for p in positions if p.calls))
    inputs = " or ".join(shapes[:_SHAPES_SHOWN])
    inputs += " or others" if len(shapes) > _SHAPES_SHOWN else ""
    call = f"{before}, input {inputs} {after}" if shapes else "none"
    waited = _rounded(min(p.published - p.since for p in positions))
    away = _rounded(min(now - p.since for p in positions))
    return {
        IN_CALL: f"in {call}",
        FAILED: f"in {call}",
        GAVE_UP: f"gave up after {waited} s in {call}",
        NOTICED: f"noticed it after {call}",
        INTERRUPTED: f"was interrupted in {call}",
        OUTSIDE: f"in no call for {away} s, the last was {call}",
    }[state]


def _call_text(call: CallRecord) -> str:
    second = ", second all-reduce" if call.part > 1 else ""
    layer, number = layer_text(call.layer, call.tag), pass_number_of(call.tag)
    return f"{call.phase} of {layer} (call {number}{second})"


def _rounded(seconds: float) -> str:
    return f"{max(0.0, seconds):.1f}" if seconds < 10 else f"{seconds:.0f}"
