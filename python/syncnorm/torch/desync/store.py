"""Calls of the store of a process group, with a deadline.

A call of a store takes no timeout: it waits for ever if the process that hosts the store is frozen.
So a daemon thread makes the calls, and the thread that failed waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_SECONDS = 1.0  # for a call
_SLACK = 0.5  # seconds that a busy machine may add
_LOSS = "syncnorm/lost"
_NO_ANSWER = "it does not answer"


class _Blocked:
    """The thread that a store has blocked. It holds the store's lock, so that one is enough."""

    thread: threading.Thread | None = None


def announce_loss(process_group: Any) -> str:
    """Publish that the group is unusable; return why the store could not be used, or ""."""
    return within(_SECONDS, lambda: process_group.get_group_store().set(_LOSS, ""))


def is_lost(process_group: Any) -> bool:
    """Return whether a rank has announced that the group is unusable."""
    answer: list[bool] = []
    within(_SECONDS, lambda: answer.append(process_group.get_group_store().check([_LOSS])))
    return answer == [True]


def within(seconds: float, call: Callable[[], object]) -> str:
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
