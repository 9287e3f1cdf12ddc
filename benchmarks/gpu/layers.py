"""Layers beside each other in a group of one, also on the way they take in a larger group.

torch.nn.SyncBatchNorm and this library's layer leave out all exchange where there is but one rank.
Here each is also made to go the way of several ranks, over a group of torch.distributed of one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules import _functions

from syncnorm.torch import SyncBatchNorm, dispatch
from syncnorm.torch.groups.process_group import Group, TorchGroup

from . import rehearsal
from .cases import Case, make_inputs

TORCH_SYNC = "torch.nn.SyncBatchNorm"
BATCH_NORM = "torch.nn.BatchNorm2d"
ALONE = "syncnorm"
EXCHANGING = "syncnorm, exchanging"


class ForcedSyncBatchNorm(nn.SyncBatchNorm):
    """torch's layer as in training with several ranks: its own function, unchanged."""

    def forward(self, input: Tensor) -> Tensor:
        self.num_batches_tracked.add_(1)
        result: Tensor = _functions.SyncBatchNorm.apply(
            input,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.eps,
            self.momentum,
            dist.group.WORLD,
            1,
        )
        return result


def exchanging(channels: int, **choices: Any) -> SyncBatchNorm:
    """This library's layer as in training with several ranks; inside group_of_one."""
    return SyncBatchNorm(channels, process_group=dist.group.WORLD, **choices)


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    TORCH_SYNC: ForcedSyncBatchNorm,
    BATCH_NORM: nn.BatchNorm2d,
    ALONE: SyncBatchNorm,
    EXCHANGING: exchanging,
}


@contextmanager
def group_of_one(device: str) -> Iterator[None]:
    """The default group, over NCCL on a GPU, and layers that exchange over it where asked to."""
    if sys.platform.startswith("linux"):
        # The host's name may lead nowhere.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="syncnorm-group-"))
        backend = "nccl" if device == "cuda" else "gloo"
        meeting = f"file://{folder}/meeting"
        dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
        stack.callback(dist.destroy_process_group)
        stack.enter_context(mock.patch.object(dispatch, "resolve", _resolve(dispatch.resolve)))
        if device != "cuda":
            for name in rehearsal.KERNELS:
                rehearsed = getattr(rehearsal, name)
                stack.enter_context(mock.patch.object(torch, name, rehearsed))
        yield


def _resolve(usual: Callable[..., Group]) -> Callable[..., Group]:
    def resolve(process_group: Any, *layer: Any) -> Group:
        if isinstance(process_group, dist.ProcessGroup):
            return TorchGroup(process_group, process_group.size(), *layer)
        return usual(process_group, *layer)

    return resolve


class LayerSubject:
    """A layer with autograd; backward belongs to the forward before it."""

    def __init__(self, layer: Callable[[int], nn.Module], case: Case, device: str) -> None:
        inputs = make_inputs(case, device)
        self._dy = inputs.dy
        self._x = inputs.x.requires_grad_()
        self._layer = layer(case.shape[1]).to(device)
        self._leaves = (self._x, *self._layer.parameters())
        self._y: Tensor | None = None

    def forward(self) -> Tensor:
        y: Tensor = self._layer(self._x)
        self._y = y
        return y

    def backward(self) -> Tensor:
        if self._y is None:
            raise RuntimeError("backward was called before forward")
        return torch.autograd.grad(self._y, self._leaves, self._dy, retain_graph=True)[0]

    def step(self) -> tuple[Tensor, ...]:
        """Forward and backward: the output and all gradients."""
        y = self._layer(self._x)
        return y, *torch.autograd.grad(y, self._leaves, self._dy)
