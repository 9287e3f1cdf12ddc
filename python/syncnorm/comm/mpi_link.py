"""One rank's end of a group over MPI: calls that have a deadline, and that tell ranks apart.

MPI leaves open what happens where ranks sum vectors of different lengths; Open MPI may end in a
segmentation fault. So every call begins with a frame of one length, which carries a mark of the
call, and of a vector as much as fits. What does not fit follows when all marks agree.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, TypeVar

from mpi4py import MPI

from syncnorm import _core

from .mpi_duplicates import Duplicate, duplicate
from .mpi_reduction import all_reduced, post

Result = TypeVar("Result")

# In float64 values: just below the 4 KiB that Open MPI sends at once through shared memory. The
# wires of a forward pass with up to 246 channels fit.
_FRAME = 500
_MARK, _SQUARE, _GONE, _WHO, _HEAD = range(5)  # the last: how many there are
_ROOM = _FRAME - _HEAD
# A sum's mark is 1 + count % _LENGTHS, a prime: the marks of lengths that ranks may have by mistake
# differ, and their squares add up exactly over 2 million ranks.
_LENGTHS = 65521
_SPLIT, _BCAST = _LENGTHS + 1, _LENGTHS + 2


class MpiLink:
    """Sums, splits and broadcasts between the ranks of a duplicate.

    Every rank makes the same calls, one at a time; abort may come from any thread. After a failure
    it is of no more use.
    """

    def __init__(self, own: Duplicate, timeout: float | None) -> None:
        own.lend(self)
        self.rank, self.size = own.comm.rank, own.comm.size
        self._own, self._timeout = own, timeout
        self._sent, self._received = _values(_FRAME), _values(_FRAME)
        self._room_sent = memoryview(self._sent)[_HEAD:]
        self._room_received = memoryview(self._received)[_HEAD:]
        self._calls, self._name, self._deadline = 0, "", inf
        self._rest_due = False  # the next that the others send may be no frame
        self._mute = False  # there is nothing, or no way, to tell the other ranks
        self._lock = threading.Lock()  # for the next two
        self._busy = False
        self._aborted: str | None = None

    @classmethod
    def over(cls, mpi_comm: MPI.Intracomm, timeout: float | None) -> MpiLink:
        """A link between the ranks of mpi_comm, by a duplicate of its own. Collective."""
        own = duplicate(mpi_comm, _deadline(timeout))
        if own is None:
            raise _core.CommunicatorTimeoutError(
                f"rank {mpi_comm.rank} waited {timeout:g} s in from_mpi for the {mpi_comm.size}"
                " ranks of mpi_comm, and not all of them came. Every rank must call it; mpi_comm"
                " is of no more use"
            )
        return cls(own, timeout)

    def sum(self, src: memoryview, dst: memoryview) -> None:
        """dst = the sum of src over the ranks, two views of float64 values."""

        def exchange() -> None:
            count, first = len(src), min(len(src), _ROOM)
            self._room_sent[:first] = src[:first]
            self._rest_due = count > first
            self._agree(1 + count % _LENGTHS)
            dst[:first] = self._room_received[:first]
            if count > first:
                self._sum_rest(src[first:], dst[first:])

        self._call(f"sum of {len(src)} values", exchange)

    def split(self, color: int, key: int) -> tuple[Any, ...] | None:
        """As a Split of syncnorm.comm."""

        def divide() -> MPI.Comm:
            self._agree(_SPLIT)
            return self._own.comm.Split(color if color >= 0 else MPI.UNDEFINED, key)

        part = self._call("split", divide)
        if not part:
            return None
        link = MpiLink(self._own.part(part), self._timeout)
        return link.rank, link.size, link.sum, link.split, link.abort

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """The object of rank `root`, on every rank."""

        def carry() -> Any:
            self._agree(_BCAST)
            return self._own.comm.bcast(obj, root)

        return self._call("broadcast", carry)

    def abort(self, reason: str) -> None:
        """End the call that waits in another thread, if one does, and tell the other ranks."""
        with self._lock:
            self._aborted = self._aborted or reason
            if not self._busy:
                self._give_up()

    def _call(self, name: str, exchange: Callable[[], Result]) -> Result:
        with self._lock:
            self._check_usable()
            self._busy = True
        self._calls += 1
        self._name, self._deadline = name, _deadline(self._timeout)
        failed = True
        try:
            result = exchange()
            failed = False
            return result
        except MPI.Exception:
            self._mute = True
            raise
        finally:
            with self._lock:
                self._busy = False
                if failed or self._aborted is not None:
                    self._give_up()

    def _agree(self, mark: int) -> None:
        """Send the frame. Raise unless all ranks are in the same call."""
        self._sent[_MARK], self._sent[_SQUARE] = mark, mark * mark
        self._add_up(self._sent, self._received)
        marks, squares, gone, who = self._received[:_HEAD]
        same = marks == self.size * mark and squares == self.size * mark * mark
        # All ranks see these totals.
        self._mute = bool(gone) or not same
        if gone:
            which = f"rank {int(who) - 1}" if gone == 1 else f"{int(gone)} ranks"
            raise _core.InternalError(
                f"{which} of {self.size} gave up, by an abort or an error there; this is"
                f" {self._here()}"
            )
        if not same:
            raise _core.DesyncError(
                f"the {self.size} ranks are not in the same call: this is {self._here()}, another"
                " rank sums another number of values, or one splits the group. Usual causes:"
                " another number of channels, a layer that runs on some ranks only"
            )

    def _sum_rest(self, src: memoryview, dst: memoryview) -> None:
        sent, received = _values(len(src)), _values(len(src))
        memoryview(sent)[:] = src
        self._rest_due = False
        self._add_up(sent, received)
        dst[:] = memoryview(received)

    def _add_up(self, sent: array[float], received: array[float]) -> None:
        deadline, look = self._deadline, self._check_not_aborted
        if not all_reduced(self._own.comm, sent, received, MPI.SUM, deadline, look):
            raise _core.CommunicatorTimeoutError(
                f"{self._here()} waited {self._timeout:g} s, and not all ranks came; MPI does not"
                " tell which. A rank has raised or makes fewer calls, or pauses for longer: see"
                " `timeout` of from_mpi"
            )

    def _here(self) -> str:
        return f"rank {self.rank} of {self.size} in call {self._calls} ({self._name}) over MPI"

    def _check_usable(self) -> None:
        if MPI.Is_finalized():
            raise _core.InvalidArgumentError(
                "communicator over MPI: MPI was finalized, expected no call after that"
            )
        if not self._own.comm:
            raise _core.InvalidArgumentError(
                "communicator over MPI: the mpi4py communicator that it was made from was freed,"
                " expected one that outlives it"
            )
        self._check_not_aborted()

    def _check_not_aborted(self) -> None:
        if self._aborted is not None:
            raise _core.InternalError(
                f"rank {self.rank} of {self.size} was aborted: {self._aborted}"
            )

    def _give_up(self) -> None:
        """Send, in place of the next call's frame, that there will be none."""
        self._own.failed = True
        if self._mute or self._rest_due or MPI.Is_finalized() or not self._own.comm:
            return
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED and not MPI.Is_thread_main():
            return
        self._mute = True
        last = _values(_FRAME)
        last[_GONE], last[_WHO] = 1, self.rank + 1
        post(self._own.comm, last, _values(_FRAME))


def _values(count: int) -> array[float]:
    return array("d", bytes(8 * count))


def _deadline(timeout: float | None) -> float:
    return inf if timeout is None else monotonic() + timeout
