"""Layers with the names and interfaces of other libraries' layers, written for these tests.

The converter recognises such classes by their qualified names, which are given to them here.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Kind = TypeVar("Kind", bound=type)


def named(module: str, name: str) -> Any:
    def rename(kind: Kind) -> Kind:
        kind.__module__, kind.__name__, kind.__qualname__ = module, name, name
        return kind

    return rename


@named("timm.layers.norm_act", "BatchNormAct2d")
class TimmBatchNormAct(nn.BatchNorm2d):
    def __init__(self, channels: int, act: nn.Module, drop: nn.Module | None = None) -> None:
        super().__init__(channels)
        self.drop = nn.Identity() if drop is None else drop
        self.act = act

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


@named("timm.layers.norm_act", "SyncBatchNormAct")
class TimmSyncBatchNormAct(nn.SyncBatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        return self.act(self.drop(y))


class _ApexSyncBatchNorm(_BatchNorm):
    def __init__(self, channels: int, process_group: Any = None, **more: bool) -> None:
        super().__init__(channels)
        self.process_group = process_group
        vars(self).update(more)

    def forward(self, input: Tensor) -> Tensor:
        raise NotImplementedError("needs the library itself")


@named("apex.parallel.optimized_sync_batchnorm", "SyncBatchNorm")
class ApexSyncBatchNorm(_ApexSyncBatchNorm):
    def __init__(
        self,
        channels: int,
        process_group: Any = None,
        channel_last: bool = False,
        fuse_relu: bool = False,
    ) -> None:
        super().__init__(channels, process_group, channel_last=channel_last, fuse_relu=fuse_relu)


@named("apex.parallel.sync_batchnorm", "SyncBatchNorm")
class ApexSyncBatchNormInPython(_ApexSyncBatchNorm):
    pass


@named("apex.contrib.groupbn.batch_norm", "BatchNorm2d_NHWC")
class ApexChannelsLast(_ApexSyncBatchNorm):
    pass


@named("inplace_abn.abn", "ABN")
class ActivatedBatchNorm(nn.Module):
    """No subclass of torch's batch normalization, but built like one."""

    def __init__(self, channels: int, activation: str, activation_param: float = 0.01) -> None:
        super().__init__()
        plain = nn.BatchNorm2d(channels)
        vars(self).update(vars(plain))
        self.activation = activation
        self.activation_param = activation_param

    def forward(self, input: Tensor) -> Tensor:
        y = F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        if self.activation == "identity":
            return y
        extra = () if self.activation == "relu" else (self.activation_param,)
        return getattr(F, self.activation)(y, *extra)


@named("inplace_abn.abn", "InPlaceABN")
class InPlaceActivatedBatchNorm(ActivatedBatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        raise NotImplementedError("needs the library itself")
