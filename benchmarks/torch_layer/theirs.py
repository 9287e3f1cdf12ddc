"""torch.nn.SyncBatchNorm on CPU tensors, as it is, but for the five kernels that only CUDA has.

The layer's own Python code runs. A dispatch mode answers the kernels with the operations of
benchmarks/gpu/rehearsal.py, in which nothing is counted; each kernel is one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from benchmarks.gpu import rehearsal
from torch.utils._python_dispatch import TorchDispatchMode

_EMULATED: dict[Any, Callable[..., Any]] = {
    getattr(torch.ops.aten, name).default: getattr(rehearsal, name) for name in rehearsal.KERNELS
}


def _cpu() -> str:
    return "cpu"


def _nccl(_group: dist.ProcessGroup) -> str:
    return "nccl"


@contextmanager
def cpu_accepted() -> Iterator[None]:
    """The layer takes tensors of the accelerator that torch calls privateuse1: here, the CPU."""
    # No public name: torch.utils.rename_privateuse1_backend would be for good, and is once only.
    with mock.patch.object(torch._C, "_get_privateuse1_backend_name", _cpu):  # noqa: SLF001
        yield


@contextmanager
def as_over_nccl() -> Iterator[None]:
    """The layer takes the way that it has for NCCL, in fewer operations than that for gloo."""
    with mock.patch.object(dist.ProcessGroup, "_get_backend_name", _nccl):
        yield


class Emulation(TorchDispatchMode):
    """Answers what the CPU does not have."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kernel = _EMULATED.get(func, func)
        if _gathers_into_one(func):
            # gloo wants as many rows as there are ranks; NCCL does not look at the shape.
            gathered, *others = args
            args = (gathered.view(-1), *others)
        return kernel(*args, **(kwargs or {}))


def _gathers_into_one(func: Any) -> bool:
    return func.namespace == "c10d" and func.overloadpacket.__name__ == "_allgather_base_"


@contextmanager
def without_kernels(channels: int) -> Iterator[None]:
    """The five kernels take no time but that to allocate their large outputs."""
    ones = (torch.ones(channels),) * 4
    results: dict[str, Callable[..., Any]] = {
        "batch_norm_stats": lambda *_: ones[:2],
        "batch_norm_gather_stats_with_counts": lambda *_: ones[:2],
        "batch_norm_elemt": lambda x, *_: torch.empty_like(x),
        "batch_norm_backward_reduce": lambda *_: ones,
        "batch_norm_backward_elemt": lambda dy, *_: torch.empty_like(dy),
    }
    with ExitStack() as stack:
        for name, result in results.items():
            stack.enter_context(mock.patch.object(torch, name, result))
        yield
