"""Ranks over NCCL that are threads of this process, rank i on CUDA device i."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np

from support.buffers import Buffer
from syncnorm import Communicator
from syncnorm.comm import from_nccl_id, nccl_unique_id

WAIT_SECONDS = 60.0
Result = TypeVar("Result")


def each(items: Sequence[Any], call: Callable[[Any], Result]) -> list[Result]:
    """call(item) in a thread for each; all are waited for, then the first error is raised."""
    with ThreadPoolExecutor(max(1, len(items))) as pool:
        futures = [pool.submit(call, item) for item in items]
    return [future.result() for future in futures]


def outcomes(items: Sequence[Any], call: Callable[[Any], Any]) -> list[Any]:
    """The same, with the error that a call raised in place of its result."""

    def caught(item: Any) -> Any:
        try:
            return call(item)
        except Exception as error:  # noqa: BLE001 - the test looks at it, whatever it is
            return error

    return each(items, caught)


def join(size: int, **options: Any) -> list[Communicator]:
    """One new group, each rank made by a thread of its own from an id."""
    id = nccl_unique_id()
    options = {"init_timeout": WAIT_SECONDS, "sum_timeout": WAIT_SECONDS} | options
    return each(range(size), lambda rank: from_nccl_id(id, rank, size, rank, **options))


@contextmanager
def group(size: int, **options: Any) -> Iterator[list[Communicator]]:
    with ExitStack() as closing:
        yield [closing.enter_context(comm) for comm in join(size, **options)]


class Vector:
    """Doubles of rank `rank`, before and after a sum."""

    def __init__(self, rank: int, values: Sequence[float]) -> None:
        self.device = ("cuda", rank)
        self.src = Buffer.of(np.asarray(values, np.float64), "float64")
        self.dst = Buffer(self.src.shape, "float64")

    def sum(self, comm: Communicator) -> list[float]:
        """Sums over the group and waits for the device."""
        self.enqueue(comm)
        comm.wait(timeout=WAIT_SECONDS)
        return self.dst.values.tolist()

    def enqueue(self, comm: Communicator, stream: int = 0) -> None:
        comm.sum(self.src.on(*self.device), self.dst.on(*self.device), stream=stream)
