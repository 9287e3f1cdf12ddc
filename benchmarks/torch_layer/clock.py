"""Seconds of calls that several ranks make together."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from .cases import RANKS

_SHORTEST_SAMPLE = 20e-3  # seconds; shorter calls are repeated within a sample


def seconds_of(calls: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """Median seconds of each call.

    A round times each of them once, in an order that changes from round to round, so that what
    slows the machine down for a while slows all of them. Every rank makes the same calls.
    """
    counts = {name: _calls_per_sample(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(repeat):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            dist.barrier()
            samples[name].append(_sample(calls[name], counts[name]))
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


def _calls_per_sample(call: Callable[[], Any]) -> int:
    """As many on every rank."""
    _sample(call, 2)
    count = torch.tensor(max(1, round(_SHORTEST_SAMPLE / _sample(call, 3))))
    dist.broadcast(count, 0)
    return int(count)


def _sample(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


class _Done:
    def wait(self) -> bool:
        return True


@contextmanager
def free_collectives() -> Iterator[None]:
    """The ranks hold the same data, so each can tell what comes out of a collective by itself."""

    def all_reduce(_: Any, tensors: list[Tensor], *__: Any) -> _Done:
        tensors[0].mul_(RANKS)
        return _Done()

    def all_gather(_: Any, gathered: Tensor, mine: Tensor, *__: Any) -> _Done:
        gathered.view(RANKS, -1).copy_(mine)
        return _Done()

    # torch.distributed ends in these methods; the second was renamed between 2.10 and 2.13.
    replaced = {
        "allreduce": all_reduce,
        "_allgather_base": all_gather,
        "all_gather_single": all_gather,
    }
    with ExitStack() as stack:
        for name, function in replaced.items():
            if hasattr(dist.ProcessGroup, name):
                stack.enter_context(mock.patch.object(dist.ProcessGroup, name, function))
        yield
