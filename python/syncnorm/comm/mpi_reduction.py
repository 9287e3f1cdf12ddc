"""An all-reduce of MPI with a deadline, which does not keep others from the cores."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from mpi4py import MPI

_SPINS = 20  # some 5 µs, about what it takes where every rank has come and has a core
_YIELDING = 0.0005  # seconds; below this a sleep would take longer than it says
_LONGEST_SLEEP = 0.001


def all_reduced(
    comm: MPI.Intracomm,
    sent: array[Any],
    received: array[Any],
    op: MPI.Op,
    deadline: float,
    look: Callable[[], None] | None = None,
) -> bool:
    """Whether `received` was complete when monotonic() reached the deadline, which it waits for.

    look() is called while it waits, and may raise. Where this returns False or raises, MPI may
    still write to `received`.
    """
    done = False
    test = comm.Iallreduce(sent, received, op).Test
    try:
        done = _comes_true(test, deadline, look)
        return done
    finally:
        if not done:
            _keep_for_ever(sent, received)


def post(comm: MPI.Intracomm, sent: array[Any], received: array[Any]) -> None:
    """Take part in an all-reduce whose end nobody waits for."""
    _keep_for_ever(sent, received)
    comm.Iallreduce(sent, received)


def _comes_true(test: Callable[[], bool], deadline: float, look: Callable[[], None] | None) -> bool:
    for _ in range(_SPINS):
        if test():
            return True
    start = now = monotonic()
    while now < deadline:
        if test():
            return True
        if look is not None:
            look()
        if now - start < _YIELDING:
            os.sched_yield()
        else:
            sleep(min((now - start) / 10, _LONGEST_SLEEP))
        now = monotonic()
    return False


def _keep_for_ever(*buffers: object) -> None:
    """For MPI, which cannot take a request back, and uses its buffers as late as in MPI_Finalize.

    mpi4py calls that when Python has given up all its objects, and its requests do not keep the
    buffers either.
    """
    for buffer in buffers:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(buffer))
