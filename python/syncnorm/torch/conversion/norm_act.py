"""Batch normalization with the submodules of timm's BatchNormAct2d: act(drop(batch_norm))."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from syncnorm.torch.layer import SyncBatchNorm, SyncBatchNorm2d
from syncnorm.torch.ops.layout import check_input
from syncnorm.torch.tracing import call_module, is_proxy


class _DropAndAct(nn.Module):
    """The two modules behind the normalization of the next base class."""

    def __init__(
        self, *args: Any, act: nn.Module | None = None, drop: nn.Module | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.drop = nn.Identity() if drop is None else drop
        self.act = nn.Identity() if act is None else act


class SyncBatchNormAct(_DropAndAct, SyncBatchNorm):
    """SyncBatchNorm and two modules: act(drop(activation(batch_norm(input) + residual))).

    The converter makes it of a layer with an activation module. SyncBatchNorm's own `activation` is
    faster.

    Args:
        act, drop: Modules; None: nn.Identity. All others are those of SyncBatchNorm.
    """

    def forward(
        self, input: Any, residual: Any = None, mask: Any = None, lengths: Any = None
    ) -> Any:
        if is_proxy(input):
            others = {"residual": residual, "mask": mask, "lengths": lengths}
            return call_module(self, SyncBatchNormAct, input, **others)
        y = super().forward(input, residual, mask, lengths)
        if isinstance(y, list):
            return [self.act(self.drop(each)) for each in y]
        return self.act(self.drop(y))


class SyncBatchNormAct2d(SyncBatchNormAct, SyncBatchNorm2d):
    """SyncBatchNormAct that is also an nn.BatchNorm2d, for inputs (N, C, H, W)."""


def __getattr__(name: str) -> Any:
    """Create TimmSyncBatchNormAct2d at its first use, by the converter or pickle: it needs timm.

    It is a SyncBatchNormAct2d that is also timm's BatchNormAct2d. Functions of timm that look at
    the class, such as freeze_batch_norm_2d, then keep `drop` and `act`.
    """
    if name != "TimmSyncBatchNormAct2d":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from timm.layers.norm_act import BatchNormAct2d

    both = type(name, (SyncBatchNormAct2d, BatchNormAct2d), {"__module__": __name__})
    return globals().setdefault(name, both)


class BatchNorm(_BatchNorm):
    """Batch normalization on one rank for inputs (N, C, ...) with any number of dimensions.

    revert_sync_batchnorm makes it of a layer that was no BatchNorm1d, 2d or 3d before.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        check_input(input)


class BatchNormAct(_DropAndAct, BatchNorm):
    """Batch normalization on one rank and two modules: act(drop(batch_norm(input) + residual)).

    revert_sync_batchnorm makes it of a layer with an activation.

    Args:
        act, drop: Modules; None: nn.Identity. All others are those of torch.nn.BatchNorm2d.
    """

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Any:
        y = super().forward(input)
        return self.act(self.drop(y if residual is None else y + residual))
