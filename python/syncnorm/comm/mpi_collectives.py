"""Sum, split and broadcast over MPI, with a deadline and a check that the ranks match.

MPI leaves the behavior undefined if ranks sum vectors of different lengths; Open MPI may crash.
Therefore every call starts with an all-reduce of a block of fixed length: a header that identifies
the call, and as much of the vector as fits. If the headers of all ranks match, the rest of the
vector follows in a second all-reduce.
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

from .mpi_allreduce import allreduce, start_allreduce
from .mpi_duplicates import Duplicate, acquire_duplicate

Result = TypeVar("Result")

# float64 values: just below the 4 KiB that Open MPI sends at once through shared memory. The wire
# of a forward pass with up to 246 channels fits.
_BLOCK = 500
_CODE, _CODE_SQUARED, _FAILED_RANKS, _FAILED_RANK, _HEADER = range(5)
_PAYLOAD = _BLOCK - _HEADER
# The code of a sum is _SUM_CODE + its number of values. The sum of squared codes is exact while
# size * code**2 < 2**53.
_SPLIT_CODE, _BCAST_CODE, _SUM_CODE = 1, 2, 3
# How long abort waits for the call of another thread. A sum looks for an abort every millisecond,
# a split or a broadcast does not.
_ABORT_SECONDS = 1.0


class MpiCollectives:
    """Collectives of one rank on a duplicated MPI communicator.

    Every rank makes the same calls, one at a time. abort may be called from any thread. After a
    failure the object cannot be used any more.
    """

    def __init__(self, duplicate: Duplicate, timeout: float | None) -> None:
        duplicate.set_owner(self)
        self.rank, self.size = duplicate.comm.rank, duplicate.comm.size
        self._duplicate, self._timeout = duplicate, timeout
        self._send, self._receive = _zeros(_BLOCK), _zeros(_BLOCK)
        self._send_payload = memoryview(self._send)[_HEADER:]
        self._receive_payload = memoryview(self._receive)[_HEADER:]
        self._calls, self._name, self._deadline = 0, "", inf
        # The next all-reduce of the other ranks may be the rest of a vector instead of a block.
        self._rest_pending = False
        # The other ranks cannot be notified of a failure, or need not be.
        self._skip_notification = False
        self._idle = threading.Condition()  # guards _caller and _aborted
        self._caller: int | None = None  # the thread of the call in progress
        self._aborted: str | None = None

    @classmethod
    def create(cls, mpi_comm: MPI.Intracomm, timeout: float | None) -> MpiCollectives:
        """Return the collectives of a duplicate of mpi_comm. Collective over mpi_comm."""
        duplicate = acquire_duplicate(mpi_comm, _deadline(timeout))
        if duplicate is None:
            raise _core.CommunicatorTimeoutError(
                f"rank {mpi_comm.rank} waited {timeout:g} s in from_mpi for the {mpi_comm.size}"
                " ranks of mpi_comm, expected every rank to call from_mpi; mpi_comm has a pending"
                " call and cannot be used any more"
            )
        return cls(duplicate, timeout)

    def sum(self, src: memoryview, dst: memoryview) -> None:
        """Write the sum of src over the ranks into dst; both are views of float64 values."""

        def exchange() -> None:
            count, first = len(src), min(len(src), _PAYLOAD)
            self._send_payload[:first] = src[:first]
            self._rest_pending = count > first
            self._exchange_block(_SUM_CODE + count)
            dst[:first] = self._receive_payload[:first]
            if count > first:
                self._sum_rest(src[first:], dst[first:])

        self._call(f"sum of {len(src)} values", exchange)

    def split(self, color: int, key: int) -> tuple[Any, ...] | None:
        """Split the group, as syncnorm.comm.Split describes."""

        def exchange() -> MPI.Comm:
            self._exchange_block(_SPLIT_CODE)
            return self._duplicate.comm.Split(color if color >= 0 else MPI.UNDEFINED, key)

        comm = self._call("split", exchange)
        if not comm:
            return None
        part = MpiCollectives(self._duplicate.add_split(comm), self._timeout)
        return part.rank, part.size, part.sum, part.split, part.abort

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """Return the object of rank `root` on every rank."""

        def exchange() -> Any:
            self._exchange_block(_BCAST_CODE)
            return self._duplicate.comm.bcast(obj, root)

        return self._call("broadcast", exchange)

    def abort(self, reason: str) -> None:
        """End the call in progress, if any, and notify the other ranks.

        The thread of the call in progress does both. It gets the time for it here, because the
        process may exit after an abort.
        """
        with self._idle:
            self._aborted = self._aborted or reason
            if self._caller == threading.get_ident():  # abort is called by a signal handler
                return
            if self._idle.wait_for(lambda: self._caller is None, _ABORT_SECONDS):
                self._fail()

    def _call(self, name: str, exchange: Callable[[], Result]) -> Result:
        with self._idle:
            self._require_usable()
            self._caller = threading.get_ident()
        self._calls += 1
        self._name, self._deadline = name, _deadline(self._timeout)
        failed = True
        try:
            result = exchange()
            failed = False
            return result
        except MPI.Exception:
            self._skip_notification = True
            raise
        finally:
            with self._idle:
                self._caller = None
                if failed or self._aborted is not None:
                    self._fail()
                self._idle.notify_all()

    def _exchange_block(self, code: int) -> None:
        """All-reduce the block. Raise unless all ranks are in the same call."""
        self._send[_CODE], self._send[_CODE_SQUARED] = code, code * code
        self._allreduce(self._send, self._receive)
        codes, squares, failed_ranks, failed_rank = self._receive[:_HEADER]
        same_call = codes == self.size * code and squares == self.size * code * code
        # Every rank gets these totals, and so fails without a notification.
        self._skip_notification = bool(failed_ranks) or not same_call
        if failed_ranks:
            which = (
                f"rank {int(failed_rank) - 1}"
                if failed_ranks == 1
                else f"{int(failed_ranks)} ranks"
            )
            raise _core.RankLostError(
                f"{which} of {self.size} left the group after an abort or an error; this is"
                f" {self._location()}"
            )
        if not same_call:
            raise _core.DesyncError(
                f"the {self.size} ranks are not in the same call: this is {self._location()},"
                " another rank sums another number of values or splits the group. Usual causes:"
                " different numbers of channels, or a layer that runs on some ranks only"
            )

    def _sum_rest(self, src: memoryview, dst: memoryview) -> None:
        send, receive = _zeros(len(src)), _zeros(len(src))
        memoryview(send)[:] = src
        self._rest_pending = False
        self._allreduce(send, receive)
        dst[:] = memoryview(receive)

    def _allreduce(self, send: array[float], receive: array[float]) -> None:
        comm, deadline = self._duplicate.comm, self._deadline
        if not allreduce(comm, send, receive, MPI.SUM, deadline, self._raise_if_aborted):
            raise _core.CommunicatorTimeoutError(
                f"{self._location()} waited {self._timeout:g} s for the other ranks; MPI does not"
                " report which ranks are missing. Check for a rank that raised or makes fewer"
                " calls, or increase `timeout` of from_mpi"
            )

    def _location(self) -> str:
        return f"rank {self.rank} of {self.size} in call {self._calls} ({self._name}) over MPI"

    def _require_usable(self) -> None:
        if MPI.Is_finalized():
            raise _core.InvalidArgumentError(
                "communicator over MPI: MPI was finalized, expected calls before MPI.Finalize()"
            )
        if not self._duplicate.comm:
            raise _core.InvalidArgumentError(
                "communicator over MPI: the mpi4py communicator was freed, expected it to outlive"
                " the communicator that from_mpi made from it"
            )
        self._raise_if_aborted()

    def _raise_if_aborted(self) -> None:
        if self._aborted is not None:
            raise _core.InternalError(
                f"rank {self.rank} of {self.size} was aborted: {self._aborted}"
            )

    def _fail(self) -> None:
        """Retire the duplicate, and send a block that makes the next call of other ranks fail."""
        self._duplicate.failed = True
        if self._skip_notification or self._rest_pending:
            return
        if MPI.Is_finalized() or not self._duplicate.comm:
            return
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED and not MPI.Is_thread_main():
            return
        self._skip_notification = True
        block = _zeros(_BLOCK)
        block[_FAILED_RANKS], block[_FAILED_RANK] = 1, self.rank + 1
        start_allreduce(self._duplicate.comm, block, _zeros(_BLOCK))


def _zeros(count: int) -> array[float]:
    return array("d", bytes(8 * count))


def _deadline(timeout: float | None) -> float:
    return inf if timeout is None else monotonic() + timeout
