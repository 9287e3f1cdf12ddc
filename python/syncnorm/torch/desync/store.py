"""Exchange the positions of the ranks through the store of their process group, with a deadline.

A call of a store takes no timeout: it waits for ever if the process that hosts the store is frozen.
So a daemon thread makes the calls, and the thread that failed waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .records import Position, publish

# Seconds to wait for the positions of other ranks: those that failed in the same all-reduce publish
# at once. _SETTLED: until a position that is not final counts as the newest; also how long to wait
# for the other ranks to read.
_DEADLINE = 5.0
_SETTLED = 1.0
_PAUSE = 0.02
# Bytes of a position. More are not ours, and not worth parsing.
_LONGEST = 1 << 16
_SLACK = 0.5  # seconds that a busy machine may add
_LOSS = "syncnorm/lost"
_NO_ANSWER = "it does not answer"


class _Blocked:
    """The thread that a store has blocked. It holds the store's lock, so that one is enough."""

    thread: threading.Thread | None = None


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

    problem = _within(deadline + settled, run)
    return found.copy(), problem


def announce_loss(process_group: Any) -> str:
    """Publish that the group is unusable; return why the store could not be used, or ""."""
    return _within(_SETTLED, lambda: process_group.get_group_store().set(_LOSS, ""))


def is_lost(process_group: Any) -> bool:
    """Return whether a rank has announced that the group is unusable."""
    answer: list[bool] = []
    _within(_SETTLED, lambda: answer.append(process_group.get_group_store().check([_LOSS])))
    return answer == [True]


def _within(seconds: float, call: Callable[[], object]) -> str:
    """Call in a thread, and wait for it; return why it failed, or ""."""
    if _Blocked.thread is not None and _Blocked.thread.is_alive():
        return _NO_ANSWER
    problems: list[str] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the error of the all-reduce is the one to raise
            problems.append(str(error))

    thread = threading.Thread(target=run, name="syncnorm-store", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no more threads, or the interpreter is exiting
        return str(error)
    thread.join(seconds + _SLACK)
    if thread.is_alive():
        _Blocked.thread = thread
        return _NO_ANSWER
    return "; ".join(problems)


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
