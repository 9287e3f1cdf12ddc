"""Batch normalization with an activation module behind it: synchronized, and on one rank.

The interface is that of timm's BatchNormAct2d: submodules `drop` and `act`, act(drop(batch_norm)).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from syncnorm.torch.module import SyncBatchNorm


class _DropAndAct(nn.Module):
    """The two modules behind the normalization that comes next in the order of base classes."""

    def __init__(
        self,
        *args: Any,
        act: nn.Module | None = None,
        drop: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.drop = nn.Identity() if drop is None else drop
        self.act = nn.Identity() if act is None else act


class SyncBatchNormAct(_DropAndAct, SyncBatchNorm):
    """SyncBatchNorm followed by two modules: act(drop(activation(batch_norm(input) + residual))).

    What a BatchNorm with an activation module is converted to: act and drop are kept as they are,
    with their hooks and parameters. An activation of SyncBatchNorm's own, where there is one, is
    quicker. act, drop: modules; None: nn.Identity. The other arguments are those of SyncBatchNorm.
    """

    def forward(self, input: Any, residual: Any = None, mask: Any = None) -> Any:
        y = super().forward(input, residual, mask)
        if isinstance(y, list):
            return [self.act(self.drop(each)) for each in y]
        return self.act(self.drop(y))


class BatchNorm(_BatchNorm):
    """Batch normalization on one rank for inputs (N, C, ...) of any rank.

    What revert_sync_batchnorm makes of a layer that was not a BatchNorm1d, 2d or 3d before.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


class BatchNormAct(_DropAndAct, BatchNorm):
    """Batch normalization on one rank and two modules: act(drop(batch_norm(input) + residual)).

    What revert_sync_batchnorm makes of a layer with an activation. act, drop: modules; None:
    nn.Identity. The other arguments are those of torch.nn.BatchNorm2d.
    """

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Any:
        y = super().forward(input)
        return self.act(self.drop(y if residual is None else y + residual))
