"""MPI all-reduce with a deadline."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from mpi4py import MPI

_SPINS = 20  # about 5 µs, the duration of a sum if every rank is present and has a core
_YIELD_SECONDS = 0.0005  # sleep() overshoots shorter waits
_MAX_SLEEP_SECONDS = 0.001


def allreduce(
    comm: MPI.Intracomm,
    send: array[Any],
    receive: array[Any],
    op: MPI.Op,
    deadline: float,
    poll: Callable[[], None] | None = None,
) -> bool:
    """All-reduce `send` into `receive` and return whether it completed before the deadline.

    While it waits it calls poll(), which may raise. If this function returns False or raises, MPI
    may still write to `receive`.
    """
    done = False
    test = comm.Iallreduce(send, receive, op).Test
    try:
        done = _wait(test, deadline, poll)
        return done
    finally:
        if not done:
            _leak(send, receive)


def start_allreduce(comm: MPI.Intracomm, send: array[Any], receive: array[Any]) -> None:
    """Start an all-reduce without waiting for it."""
    _leak(send, receive)
    comm.Iallreduce(send, receive)


def _wait(test: Callable[[], bool], deadline: float, poll: Callable[[], None] | None) -> bool:
    for _ in range(_SPINS):
        if test():
            return True
    start = now = monotonic()
    while now < deadline:
        if test():
            return True
        if poll is not None:
            poll()
        if now - start < _YIELD_SECONDS:
            os.sched_yield()
        else:
            sleep(min((now - start) / 10, _MAX_SLEEP_SECONDS))
        now = monotonic()
    return False


def _leak(*buffers: object) -> None:
    """Keep the buffers of a pending request alive until the process ends.

    MPI cannot cancel the request, and accesses its buffers as late as in MPI_Finalize. mpi4py calls
    that after Python has released its objects, and mpi4py's requests do not own their buffers.
    """
    for buffer in buffers:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(buffer))
