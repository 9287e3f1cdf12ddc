"""Patch torch so that torch.nn.SyncBatchNorm runs on CPU tensors, and without its communication.

The Python code of the layer runs unchanged. Its five kernels exist only for CUDA; a dispatch mode
replaces them by the functions of benchmarks/gpu/rehearsal.py. The operations inside these functions
are not counted, so that each kernel is one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from benchmarks.gpu import rehearsal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .cases import RANKS

_EMULATED: dict[Any, Callable[..., Any]] = {
    getattr(torch.ops.aten, name).default: getattr(rehearsal, name) for name in rehearsal.KERNELS
}


@contextmanager
def _replace(owner: Any, functions: dict[str, Callable[..., Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


@contextmanager
def allow_cpu_tensors() -> Iterator[None]:
    """Make torch's layer accept CPU tensors.

    The layer accepts tensors of torch's privateuse1 device type; within this context that is "cpu".
    """
    # Not by torch.utils.rename_privateuse1_backend, which cannot be undone.
    with _replace(torch._C, {"_get_privateuse1_backend_name": lambda: "cpu"}):  # noqa: SLF001
        yield


@contextmanager
def report_nccl_backend() -> Iterator[None]:
    """Make torch's layer take its NCCL path, which has fewer operations than its gloo path."""
    with _replace(dist.ProcessGroup, {"_get_backend_name": lambda _: "nccl"}):
        yield


class KernelEmulation(TorchDispatchMode):
    """Replaces the five CUDA kernels by emulations for the CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kernel = _EMULATED.get(func, func)
        if func.namespace == "c10d" and func.overloadpacket.__name__ == "_allgather_base_":
            # gloo requires one row per rank or a flat tensor; NCCL accepts every shape.
            gathered, *others = args
            args = (gathered.view(-1), *others)
        return kernel(*args, **(kwargs or {}))


@contextmanager
def stub_kernels(channels: int) -> Iterator[None]:
    """Make the five kernels only allocate their large outputs."""
    ones = (torch.ones(channels),) * 4
    stubs: dict[str, Callable[..., Any]] = {
        "batch_norm_stats": lambda *_: ones[:2],
        "batch_norm_gather_stats_with_counts": lambda *_: ones[:2],
        "batch_norm_elemt": lambda x, *_: torch.empty_like(x),
        "batch_norm_backward_reduce": lambda *_: ones,
        "batch_norm_backward_elemt": lambda dy, *_: torch.empty_like(dy),
    }
    with _replace(torch, stubs):
        yield


class _CompletedWork:
    def wait(self, *_: Any) -> bool:
        return True


@contextmanager
def stub_collectives() -> Iterator[None]:
    """Make collectives compute their result locally, which requires equal data on all ranks."""

    def all_reduce(_: Any, tensors: list[Tensor], *__: Any) -> _CompletedWork:
        tensors[0].mul_(RANKS)
        return _CompletedWork()

    def all_gather(_: Any, gathered: Tensor, local: Tensor, *__: Any) -> _CompletedWork:
        gathered.view(RANKS, -1).copy_(local)
        return _CompletedWork()

    # torch.distributed calls these methods; the second was renamed between 2.10 and 2.13.
    stubs: dict[str, Callable[..., Any]] = {
        "allreduce": all_reduce,
        "_allgather_base": all_gather,
        "all_gather_single": all_gather,
    }
    group = dist.ProcessGroup
    with _replace(group, {name: stub for name, stub in stubs.items() if hasattr(group, name)}):
        yield
