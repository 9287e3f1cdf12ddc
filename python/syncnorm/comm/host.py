"""Communicators for host memory: threads of this process, and Python callables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from syncnorm._core import Communicator, callback_communicator
from syncnorm._core import thread_group as _thread_group

# (src, dst)
Sum: TypeAlias = Callable[[memoryview, memoryview], object]
# (color, key) -> (rank, size, sum, split[, abort]), or None for color < 0
Split: TypeAlias = Callable[[int, int], tuple[Any, ...] | None]
# (reason)
Abort: TypeAlias = Callable[[str], object]


def thread_group(n: int, timeout: float = 60.0) -> list[Communicator]:
    """Create a group with n threads of this process as its ranks.

    The communicators sum in host memory, in rank order, so that every rank gets the same bits. Each
    thread uses one communicator.

    Args:
        n: Number of ranks, >= 1.
        timeout: Seconds that a rank waits in a call for the other ranks, > 0. Then that call, and
            every other call of the group, raises CommunicatorTimeoutError with the missing ranks.

    Returns:
        n communicators; item i is rank i.

    Raises:
        InvalidArgumentError: n or timeout is out of range.
    """
    return _thread_group(n, timeout)


def from_callback(
    rank: int, size: int, sum: Sum, split: Split | None = None, abort: Abort | None = None
) -> Communicator:
    """Create a communicator for host memory that calls Python functions.

    If a function raises, the call of the communicator raises the same exception. The communicator
    has then failed, and later calls raise InternalError. The communicator keeps the functions alive
    until it is closed or collected.

    Args:
        rank: Rank of this process, 0 <= rank < size.
        size: Number of ranks in the group.
        sum: sum(src, dst) writes the sum of src over the group into dst, and returns when dst is
            complete. src and dst are memoryviews with format "d" (float64) and the same length on
            every rank. src is read-only. Both are valid during the call only. All ranks call sum in
            the same order.
        split: split(color, key) divides the group as MPI_Comm_split does. It returns (rank, size,
            sum, split) or (rank, size, sum, split, abort) of the new group, with None for a missing
            split or abort. For color < 0 it returns None. Without it, Communicator.split raises
            UnsupportedError.
        abort: abort(reason) notifies the other ranks, and interrupts a sum that waits for them.
            Communicator.abort calls it, as does a with block that an exception leaves, from any
            thread.

    Returns:
        A communicator of kind "callback".

    Raises:
        InvalidArgumentError: rank or size is out of range.
        ArgumentTypeError: sum, split or abort is not callable.
    """
    return callback_communicator(rank, size, sum, split, abort)
