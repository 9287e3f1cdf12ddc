"""What an error says of where the ranks of a group were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .positions import FAILED, GAVE_UP, IN_CALL, NOTICED, OUTSIDE, CallTold, Position

_SHAPES_SHOWN = 3


class _Place(NamedTuple):
    """Ranks for which all of this is the same are told of in one line."""

    state: str
    call: str
    work: str
    before: str


def account(told: Mapping[int, Position], ranks: Iterable[int], now: float) -> str:
    """One line for all ranks that are at the same place. told: by rank, of those that told."""
    shown = _differing_options(told.values())
    places: dict[_Place | None, list[int]] = {}
    for rank in ranks:
        place = _place(told[rank], shown) if rank in told else None
        places.setdefault(place, []).append(rank)
    lines = []
    for place, here in places.items():
        if place is None:
            said = "told nothing (ended, or cannot tell)"
        else:
            said = _said(place, [told[rank] for rank in here], now)
        lines.append(f"  {listed(here)}: {said}")
    return "\n".join(lines)


def layer_text(name: str | None) -> str:
    """A layer by its name."""
    return "a layer without a name" if name is None else repr(name)


def listed(ranks: Iterable[int]) -> str:
    """Such as: ranks 0-2, 5."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"rank{'' if texts == [str(runs[0][0])] else 's'} {', '.join(texts)}"


def _said(place: _Place, positions: list[Position], now: float) -> str:
    shapes = list(dict.fromkeys(str(p.calls[0].shape) for p in positions if p.calls))
    inputs = " or ".join(shapes[:_SHAPES_SHOWN])
    inputs += " or others" if len(shapes) > _SHAPES_SHOWN else ""
    call = f"{place.call}, input {inputs} {place.work}{place.before}" if shapes else "none"
    waited = _rounded(min(p.told - p.since for p in positions))
    away = _rounded(min(now - p.since for p in positions))
    return {
        IN_CALL: f"in {call}",
        FAILED: f"in {call}",
        GAVE_UP: f"gave up after {waited} s in {call}",
        NOTICED: f"noticed it after {call}",
        OUTSIDE: f"in no call for {away} s, the last was {call}",
    }[place.state]


def _place(position: Position, shown: list[str]) -> _Place:
    if not position.calls:
        return _Place(position.state, "", "", "")
    current, *earlier = position.calls
    work = [current.dtype]
    work += [f"{name}={current.options[name]!r}" for name in shown if name in current.options]
    before = f"; before it {', '.join(map(_name, earlier))}" if earlier else ""
    call = f"{_name(current)}, {current.shape[1]} channels"
    return _Place(position.state, call, ", ".join(work), before)


def _name(call: CallTold) -> str:
    second = ", second sum" if call.part > 1 else ""
    return f"{call.phase} of {layer_text(call.layer)} (call {call.tag}{second})"


def _differing_options(positions: Iterable[Position]) -> list[str]:
    current = [position.calls[0].options for position in positions if position.calls]
    names = current[0] if current else {}
    return [name for name in names if len({options.get(name) for options in current}) > 1]


def _rounded(seconds: float) -> str:
    return f"{max(0.0, seconds):.1f}" if seconds < 10 else f"{seconds:.0f}"
