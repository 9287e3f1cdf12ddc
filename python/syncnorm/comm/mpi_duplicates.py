"""Duplicates of the user's MPI communicators, so that our calls and the user's do not mix.

The user's communicator keeps them as an attribute, as MPI has it for libraries, and frees them when
it is freed. One that is not used any more, on any rank, is used again.
"""

from __future__ import annotations

import weakref
from array import array
from functools import cache
from typing import Any, cast

from mpi4py import MPI

from .mpi_reduction import all_reduced

_REUSABLE = 63  # duplicates of one communicator: a bit for each in an int64


class Duplicate:
    """An MPI communicator of our own, for one user at a time."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)  # which mpi4py makes exceptions of
        self.comm = comm
        self.failed = False  # calls are pending: it cannot be used again, nor freed
        self._parts: list[Duplicate] = []
        self._user: weakref.ref[object] | None = None

    def lend(self, user: object) -> None:
        self._user = weakref.ref(user)

    @property
    def idle(self) -> bool:
        return not self.failed and (self._user is None or self._user() is None)

    def part(self, comm: MPI.Comm) -> Duplicate:
        """What was split from this one, and is freed with it."""
        self._parts.append(Duplicate(cast("MPI.Intracomm", comm)))
        return self._parts[-1]

    def free(self) -> None:
        for part in self._parts:
            part.free()
        if not self.failed:
            self.comm.Free()


def duplicate(mpi_comm: MPI.Intracomm, deadline: float) -> Duplicate | None:
    """A duplicate for a new user; None if not all ranks came before the deadline. Collective."""
    if mpi_comm.Get_attr(_keyval()) is None:
        mpi_comm.Set_attr(_keyval(), [])
    pool: list[Duplicate] = cast("Any", mpi_comm.Get_attr(_keyval()))
    # It has the same members on all ranks. What is idle here may be in use elsewhere.
    idle = array("q", [sum(1 << i for i, one in enumerate(pool[:_REUSABLE]) if one.idle)])
    idle_on_all = array("q", [0])
    if not all_reduced(mpi_comm, idle, idle_on_all, MPI.BAND, deadline):
        return None
    (found,) = idle_on_all
    if found:
        return pool[(found & -found).bit_length() - 1]
    pool.append(Duplicate(mpi_comm.Dup()))
    return pool[-1]


@cache
def _keyval() -> int:
    # Without a copy function: what the user duplicates gets duplicates of its own.
    return MPI.Comm.Create_keyval(delete_fn=_free)


def _free(_comm: MPI.Comm, _keyval: int, pool: list[Duplicate]) -> None:
    for one in pool:
        one.free()
