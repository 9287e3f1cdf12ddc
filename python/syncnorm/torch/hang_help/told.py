"""What the ranks of a group tell each other through the group's store.

The store needs no other rank to be in a call. Each rank has one key in it, which says where the
rank is and for which sum of the group that holds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .positions import Position

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

# How long to wait, in seconds, for what the other ranks tell: those that failed in the same sum do
# so at once. SETTLED: until what a rank told before is taken for the newest.
_DEADLINE = 5.0
_SETTLED = 1.0
_PAUSE = 0.02


def tell(process_group: Any, position: Position, topic: str = "where") -> None:
    """Say where this rank is. Raises RuntimeError where the store cannot be reached."""
    store = process_group.get_group_store()
    store.set(_key(topic, process_group.rank()), position.to_json())


def ask(process_group: Any, mine: Position, topic: str = "where") -> dict[int, Position]:
    """Tell where this rank is, and hear it of the others; by rank of the group.

    Only what holds for the same sum counts. Ranks that tell nothing in time are left out.
    """
    tell(process_group, mine, topic)
    store, rank = process_group.get_group_store(), process_group.rank()
    told = {rank: mine}
    began = time.monotonic()
    while (waited := time.monotonic() - began) < _DEADLINE:
        missing = [r for r in range(process_group.size()) if r not in told or not told[r].is_final]
        if not missing or (waited > _SETTLED and len(told) == process_group.size()):
            break
        for other in missing:
            position = _read(store, _key(topic, other))
            if position is not None and position.sum == mine.sum:
                told[other] = position
        time.sleep(_PAUSE)
    _stay_for_readers(store, f"{topic}/{mine.sum}", sum(p.is_final for p in told.values()))
    return told


def _stay_for_readers(store: Store, topic: str, readers: int) -> None:
    """Wait until the ranks that ask too have read, for the store may end with this process."""
    read = f"syncnorm/{topic}/read"
    store.add(read, 1)
    began = time.monotonic()
    while store.add(read, 0) < readers and time.monotonic() - began < _SETTLED:
        time.sleep(_PAUSE)


def _key(topic: str, rank: int) -> str:
    return f"syncnorm/{topic}/{rank}"


def _read(store: Store, key: str) -> Position | None:
    # get() alone would wait for a key that is not there.
    return Position.from_json(store.get(key)) if store.check([key]) else None
