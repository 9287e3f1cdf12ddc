"""mmcv.ops.SyncBatchNorm."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn

from .conversion.convert import revert_sync_batchnorm
from .dialects import AssertedArgumentError, LoadsArrays
from .groups.resolve import resolve
from .layer import SyncBatchNorm as _SyncBatchNorm

__all__ = ["SyncBatchNorm", "revert_sync_batchnorm"]

_WEIGHTING = {"default": "equal", "N": "batch"}


class SyncBatchNorm(LoadsArrays, _SyncBatchNorm):
    """mmcv.ops.SyncBatchNorm, with its arguments, defaults, conventions and state dict.

    running_var gets the variance times m/(m-1), where m is this rank's number of values times the
    number of ranks. The gradients of weight and bias are the means over the group.

    Differences where mmcv is wrong or fails: with "N" and unequal batches the gradient of the input
    is exact; a rank without data does not count in "default" (mmcv takes its mean as 0), nor in
    num_batches_tracked a batch that is empty on all ranks; m/(m-1) is 1 if m is 0 or 1;
    affine=False works.

    Args:
        num_features, eps, momentum, affine, track_running_stats: As in torch.nn.BatchNorm2d, except
            that weight is drawn from U(0, 1). Without running statistics an evaluation uses those
            of the batch over the group, so that every rank takes part in it.
        group: A process group, a list of global ranks, or another process_group of
            syncnorm.torch.SyncBatchNorm; None: all ranks.
        stats_mode: "default": every rank counts equally; "N": by its number of samples.
        group_size, name, timeout, device, dtype: As in syncnorm.torch.SyncBatchNorm.

    Raises:
        InvalidArgumentError: Another stats_mode. It is an AssertionError, too.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        group: Any = None,
        stats_mode: str = "default",
        *,
        name: str | None = None,
        group_size: int | None = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        arguments = (num_features, eps, momentum, affine, track_running_stats, group, device, dtype)
        super().__init__(
            *arguments,
            weighting=_weighting(stats_mode),
            variance_factor="unbiased_local",
            grad_reduction="mean",
            name=name,
            group_size=group_size,
            timeout=timeout,
        )

    @property
    def stats_mode(self) -> str:
        """ "default" or "N"; may be set."""
        return next(mode for mode, weight in _WEIGHTING.items() if weight == self.weighting)

    @stats_mode.setter
    def stats_mode(self, mode: str) -> None:
        self.weighting = _weighting(mode)

    @property
    def group(self) -> Any:
        """The process group, the default group if None; a list of ranks until the first call."""
        group = self.process_group
        return dist.group.WORLD if group is None and dist.is_available() else group

    @group.setter
    def group(self, group: Any) -> None:
        self.process_group = group

    @property  # type: ignore[misc]
    def group_size(self) -> int:
        """The number of ranks in the group; 1 if torch.distributed is not initialized."""
        if isinstance(self.process_group, list | tuple):
            return len(self.process_group)
        return resolve(self.current_group()).size

    def reset_parameters(self) -> None:
        """Draw weight from U(0, 1), set bias to 0 and reset the running statistics."""
        super().reset_parameters()
        if self.weight is not None:
            nn.init.uniform_(self.weight)

    def _communicates(self) -> bool:
        return self.training or not self.track_running_stats

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine},"
            f" track_running_stats={self.track_running_stats}, stats_mode={self.stats_mode}"
        )


def _weighting(stats_mode: str) -> str:
    if stats_mode not in _WEIGHTING:
        text = f'"stats_mode" only accepts "default" and "N", got "{stats_mode}"'
        raise AssertedArgumentError(text)
    return _WEIGHTING[stats_mode]
