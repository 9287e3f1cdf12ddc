"""Pool of duplicates of an MPI communicator.

An attribute of the communicator holds its pool, so that MPI frees the duplicates with it. A
duplicate that no rank uses any more is reused.
"""

from __future__ import annotations

import weakref
from array import array
from functools import cache
from typing import Any, cast

from mpi4py import MPI

from .mpi_allreduce import allreduce

_MAX_REUSABLE = 63  # duplicates per communicator: one bit for each in an int64


class Duplicate:
    """A duplicated MPI communicator, used by one owner at a time."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)  # mpi4py raises them as MPI.Exception
        self.comm = comm
        self.failed = False  # has pending calls: cannot be reused or freed
        self._splits: list[Duplicate] = []
        self._owner: weakref.ref[object] | None = None

    def set_owner(self, owner: object) -> None:
        self._owner = weakref.ref(owner)

    @property
    def idle(self) -> bool:
        return not self.failed and (self._owner is None or self._owner() is None)

    def add_split(self, comm: MPI.Comm) -> Duplicate:
        """Add a communicator that was split from this one; free() frees it too."""
        self._splits.append(Duplicate(cast("MPI.Intracomm", comm)))
        return self._splits[-1]

    def free(self) -> None:
        for split in self._splits:
            split.free()
        if not self.failed:
            self.comm.Free()


def acquire_duplicate(mpi_comm: MPI.Intracomm, deadline: float) -> Duplicate | None:
    """Return an unused duplicate; None if not all ranks called before the deadline. Collective."""
    if mpi_comm.Get_attr(_keyval()) is None:
        mpi_comm.Set_attr(_keyval(), [])
    # The pools of all ranks have the same length, but a duplicate may be idle on some ranks only.
    pool: list[Duplicate] = cast("Any", mpi_comm.Get_attr(_keyval()))
    idle = array("q", [sum(1 << i for i, one in enumerate(pool[:_MAX_REUSABLE]) if one.idle)])
    idle_on_all = array("q", [0])
    if not allreduce(mpi_comm, idle, idle_on_all, MPI.BAND, deadline):
        return None
    (bits,) = idle_on_all
    if bits:
        return pool[(bits & -bits).bit_length() - 1]
    pool.append(Duplicate(mpi_comm.Dup()))
    return pool[-1]


@cache
def _keyval() -> int:
    # Without a copy function: a duplicate that the application makes starts with an empty pool.
    return MPI.Comm.Create_keyval(delete_fn=_free)


def _free(_comm: MPI.Comm, _keyval: int, pool: list[Duplicate]) -> None:
    for duplicate in pool:
        duplicate.free()
