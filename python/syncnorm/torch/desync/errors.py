"""Errors of a call over a process group, which say where every rank was."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch.distributed as dist

from syncnorm import CommunicatorTimeoutError, DesyncError, Error
from syncnorm.tags import layer_number_of, pass_number_of

from .records import (
    FAILED,
    GAVE_UP,
    IN_CALL,
    NOTICED,
    OUTSIDE,
    CallRecord,
    Position,
    Record,
    position_of,
    publish,
)

# Seconds to wait for the positions of other ranks: those that failed in the same all-reduce publish
# at once. _SETTLED: until a position that is not final counts as the newest.
_DEADLINE = 5.0
_SETTLED = 1.0
_PAUSE = 0.02
_SHAPES_SHOWN = 3

_SILENT = (
    "published nothing (ended, in no call, or cannot reach the store; SYNCNORM_WATCH=1 tells which)"
)
_LOST = "The process group is unusable from now on."


def raise_lost(lost: tuple[type[Error], str]) -> None:
    """Raise the error again in which the group was lost."""
    kind, text = lost
    raise kind(f"{_LOST} An earlier call failed: {text}")


def disagreement(process_group: Any, record: Record, text: str) -> DesyncError:
    """Return the error for a disagreement that a device reports some calls later."""
    record.reports += 1
    mine = position_of(record, NOTICED, record.reports)
    _, where = _exchange(process_group, mine, "reports")
    return DesyncError(f"{text}:\n{where}")


def explain(process_group: Any, record: Record, error: BaseException) -> Error | None:
    """Return the error to raise in place of `error`; None if it does not concern the group."""
    if isinstance(error, DesyncError):
        _, where = _exchange(process_group, position_of(record, FAILED))
        return DesyncError(f"{error}:\n{where}")
    if not (record.in_sum and isinstance(error, RuntimeError)):
        return None
    # Backends have no error class for a timeout. The words are those of gloo, NCCL and torch.
    state = GAVE_UP if "timed out" in str(error).lower() else FAILED
    positions, where = _exchange(process_group, position_of(record, state))
    text = (
        f"an all-reduce of the group failed ({str(error).partition('. ')[0]}):\n{where}\n{_LOST}"
        " Every rank must make the same calls in the same order, with the same channels and"
        " options."
    )
    kind: type[Error] = DesyncError
    if any(position.state == GAVE_UP for position in positions.values()):
        kind, text = CommunicatorTimeoutError, f"{text} If a rank is only slow, raise the timeout."
    record.lost = kind, text
    return kind(text)


def _exchange(
    process_group: Any, mine: Position, topic: str = "where"
) -> tuple[dict[int, Position], str]:
    """Return the positions by global rank, and the lines that describe them."""
    try:
        ranks = dist.get_process_group_ranks(process_group)
    except KeyError:  # a group that torch.distributed did not create
        ranks = list(range(process_group.size()))
    found, note = {process_group.rank(): mine}, ""
    try:
        found = exchange(process_group, mine, topic)
    except RuntimeError as error:
        note = f"\n  (the store of the group could not be reached: {error})"
    positions = {ranks[rank]: position for rank, position in found.items()}
    return positions, describe(positions, ranks, time.time()) + note


def exchange(process_group: Any, mine: Position, topic: str = "where") -> dict[int, Position]:
    """Publish this rank's position; return those of all ranks that arrive in time, by rank."""
    publish(process_group, mine, topic)
    store, size = process_group.get_group_store(), process_group.size()
    found = {process_group.rank(): mine}
    began = time.monotonic()
    while (waited := time.monotonic() - began) < _DEADLINE:
        missing = [rank for rank in range(size) if rank not in found or not found[rank].is_final]
        if not missing or (waited > _SETTLED and len(found) == size):
            break
        for rank in missing:
            key = f"syncnorm/{topic}/{rank}"
            if store.check([key]):  # get() alone would wait for a missing key
                position = Position.from_json(store.get(key))
                if position.sum == mine.sum:
                    found[rank] = position
        time.sleep(_PAUSE)
    # Wait until the other failed ranks have read, since the store may end with this process.
    readers = sum(position.is_final for position in found.values())
    key = f"syncnorm/{topic}/{mine.sum}/read"
    store.add(key, 1)
    began = time.monotonic()
    while store.add(key, 0) < readers and time.monotonic() - began < _SETTLED:
        time.sleep(_PAUSE)
    return found


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
    if name is not None:
        return repr(name)
    number = layer_number_of(tag)
    return f"layer {number} of those without a name" if number else "a layer without a name"


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
        OUTSIDE: f"in no call for {away} s, the last was {call}",
    }[state]


def _call_text(call: CallRecord) -> str:
    second = ", second all-reduce" if call.part > 1 else ""
    layer, number = layer_text(call.layer, call.tag), pass_number_of(call.tag)
    return f"{call.phase} of {layer} (call {number}{second})"


def _rounded(seconds: float) -> str:
    return f"{max(0.0, seconds):.1f}" if seconds < 10 else f"{seconds:.0f}"
