"""A thread that publishes this rank's position when the rank has made no call for a while.

A rank that waits cannot ask another one that is in its data loader or in another library's
collective. The thread reads only the records; once per standstill it writes one key into the
group's store. It runs for groups of layers with a timeout, and for all if SYNCNORM_WATCH is 1.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Any
from weakref import ref

import torch.distributed as dist

from .records import Record, position_of, publish

_EXIT_TIMEOUT = 2.0


class Watchdog:
    """Watches groups in one daemon thread, which ends with the last group or by `stop`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start over, as a forked child must: it has the groups' connections but no thread."""
        self._watched: list[tuple[ref[Any], Record]] = []
        self._lock = threading.Lock()  # guards the list and the existence of the thread
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def add(self, process_group: Any, record: Record) -> None:
        """Watch one more group."""
        with self._lock:
            self._watched.append((ref(process_group), record))
            if self._thread is None and not self._stopped:
                name = "syncnorm-watchdog"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Check the records now, since one has become less patient."""
        self._wake.set()

    def stop(self) -> None:
        """Stop the thread; wait for it unless the store blocks it."""
        self._stopped = True
        self._wake.set()
        if (thread := self._thread) is not None:
            thread.join(_EXIT_TIMEOUT)
        self._watched = []

    def _run(self) -> None:
        while not self._stopped:
            over = [watched for watched in self._watched.copy() if not _check(*watched)]
            with self._lock:
                self._watched = [watched for watched in self._watched if watched not in over]
                if not self._watched:
                    self._thread = None
                    return
                pause = min(record.patience for _, record in self._watched) / 5
            self._wake.wait(pause)
            self._wake.clear()


def _check(group: ref[Any], record: Record) -> bool:
    """Publish a standstill. Return False once the group is gone, failed or unreachable."""
    process_group, began = group(), record.changed
    if process_group is None or record.lost is not None or not _is_alive(process_group):
        return False
    if began == record.published or time.monotonic() - began < record.patience:
        return True
    record.published = began
    try:
        publish(process_group, position_of(record))
    except RuntimeError:
        return False  # the process that hosts the store has ended: nobody reads it any more
    return True


def _is_alive(process_group: Any) -> bool:
    """Return whether the group has not been destroyed."""
    try:
        dist.get_process_group_ranks(process_group)
    except KeyError:
        return False
    return True


_watchdog = Watchdog()
atexit.register(_watchdog.stop)
os.register_at_fork(after_in_child=_watchdog.reset)


def watch(process_group: Any, record: Record, patience: float | None = None) -> None:
    """Watch this rank in the group; patience: seconds, if less than before."""
    if not record.watched:
        record.watched = True
        _watchdog.add(process_group, record)
    if patience is not None and patience < record.patience:
        record.patience = patience
        _watchdog.wake()


def watch_by_default() -> bool:
    """Return whether the user asks for the watchdog on every group."""
    return os.environ.get("SYNCNORM_WATCH") == "1"
