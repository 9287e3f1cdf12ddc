"""Communicators that sum in the memory of the CPU: threads of this process, and callables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from syncnorm._core import Communicator, callback_communicator
from syncnorm._core import thread_group as _thread_group

Sum: TypeAlias = Callable[[memoryview, memoryview], object]
# (color, key) -> (rank, size, sum, split[, abort]), split and abort as in from_callback; or None.
Split: TypeAlias = Callable[[int, int], tuple[Any, ...] | None]
Abort: TypeAlias = Callable[[str], object]


def thread_group(n: int, timeout: float = 60.0) -> list[Communicator]:
    """Communicators of one new group whose ranks are n threads of this process; item i is rank i.

    Each is used by one thread at a time. They sum in the memory of the CPU, in the order of the
    ranks, so that every rank gets the same bits. A rank that waits longer than `timeout` seconds
    gets CommunicatorTimeoutError, which names the ranks that did not come; so does every other
    rank of the group that waits or comes later.

    Raises InvalidArgumentError unless n >= 1 and timeout > 0.
    """
    return _thread_group(n, timeout)


def from_callback(
    rank: int, size: int, sum: Sum, split: Split | None = None, abort: Abort | None = None
) -> Communicator:
    """A communicator of rank `rank` of `size` that sums by calling `sum`.

    sum(src, dst) writes into dst the sum of src over the group and returns when dst is complete.
    Both are memoryviews of float64 values ("d"), of the same length on every rank; src is
    read-only, and neither may be used after the call. All ranks call in the same order.

    split(color, key), if given, divides the group as MPI_Comm_split does: it is called on every
    rank and returns (rank, size, sum, split) of the new group, or with an abort as a fifth, where
    split may be None, or None for color < 0.

    abort(reason), if given, is called by Communicator.abort, and so where an exception leaves the
    with-block of the communicator, from whichever thread: to tell the other ranks, and to end a sum
    that waits for them.

    An exception raised by a callable surfaces unchanged from the call that triggered it; after it
    the communicator stays failed, with InternalError. The callables are kept alive until the
    communicator is closed or collected. It sums in the memory of the CPU.

    Raises InvalidArgumentError unless 0 <= rank < size, TypeError for what cannot be called.
    """
    return callback_communicator(rank, size, sum, split, abort)
