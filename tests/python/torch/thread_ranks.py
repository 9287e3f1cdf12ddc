"""Ranks that are threads of this process, each with its own communicator."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import syncnorm
from syncnorm.comm import thread_group

Result = TypeVar("Result")


def run_ranks(count: int, body: Callable[[int, syncnorm.Communicator], Result]) -> list[Result]:
    """body(rank, communicator) in one thread for each rank; what each returned or raised."""
    communicators = thread_group(count, timeout=20.0)
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(body, rank, comm) for rank, comm in enumerate(communicators)]
        return [future.result() for future in futures]
