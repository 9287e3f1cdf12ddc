"""A thread that tells where this rank is when it has not come to its next call for long.

A rank that waits for another one cannot ask it: that rank may be in the collective of another
library, in its data loader, or out of its loop. So each rank looks after itself. As long as it
makes calls, the thread wakes about once in a second and looks at nothing but its record. Once in
each standstill it writes one key into the store of the group. SYNCNORM_WATCH=0 in the environment
keeps it from starting.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Any
from weakref import ref

import torch.distributed as dist

from .calls import Record
from .positions import position_of
from .told import tell

_EXIT_PATIENCE = 2.0


class Watch:
    """The watch over some groups. Its thread ends with the last of them, or by `end`."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child, which has the groups' connections but no thread."""
        self._watched: list[_Watched] = []
        self._lock = threading.Lock()  # for the list, and whether there is a thread
        self._wake = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def add(self, process_group: Any, record: Record) -> None:
        """Watch over one more group."""
        with self._lock:
            self._watched.append(_Watched(process_group, record))
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(
                    target=self._run, name="syncnorm-watch", daemon=True
                )
                self._thread.start()

    def hurry(self) -> None:
        """Look again now, because a record has become less patient."""
        self._wake.set()

    def end(self) -> None:
        """End the thread, unless the store does not let it go."""
        self._ended = True
        self._wake.set()
        thread = self._thread
        if thread is not None:
            thread.join(_EXIT_PATIENCE)
        self._watched = []

    def _run(self) -> None:
        while not self._ended:
            over = [watched for watched in self._watched.copy() if not watched.look()]
            with self._lock:
                self._watched = [watched for watched in self._watched if watched not in over]
                if not self._watched:
                    self._thread = None
                    return
                pause = min(watched.record.patience for watched in self._watched) / 5
            self._wake.wait(pause)
            self._wake.clear()


class _Watched:
    def __init__(self, process_group: Any, record: Record) -> None:
        self._process_group = ref(process_group)
        self.record = record
        self._told_of = 0.0  # the standstill that was told of last, by its beginning

    def look(self) -> bool:
        """Tell of a standstill. False where there is nothing more to watch.

        That is where the group is gone or has failed, or its store cannot be reached.
        """
        process_group, began = self._process_group(), self.record.changed
        if process_group is None or self.record.lost is not None or not _is_alive(process_group):
            return False
        if began == self._told_of or time.monotonic() - began < self.record.patience:
            return True
        self._told_of = began
        try:
            tell(process_group, position_of(self.record))
        except RuntimeError:
            return False  # the process that kept the store has ended: nobody is there to read
        return True


def _is_alive(process_group: Any) -> bool:
    """Whether the group was not destroyed meanwhile."""
    try:
        dist.get_process_group_ranks(process_group)
    except KeyError:
        return False
    return True


_watch = Watch()
atexit.register(_watch.end)
os.register_at_fork(after_in_child=_watch.forget)


def watch(process_group: Any, record: Record) -> None:
    """Watch over this rank in the group, from now on."""
    if os.environ.get("SYNCNORM_WATCH") != "0":
        _watch.add(process_group, record)


def less_patience(record: Record, seconds: float) -> None:
    """Tell of a standstill after so many seconds, if it is not done earlier already."""
    if seconds < record.patience:
        record.patience = seconds
        _watch.hurry()
