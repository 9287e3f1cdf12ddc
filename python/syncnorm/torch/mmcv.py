"""mmcv.ops.SyncBatchNorm, over the core."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn

from .conversion.convert import revert_sync_batchnorm
from .conversion.registry import register_own
from .dialects.refusals import RefusedArgument
from .dialects.states import TakesArrays
from .module import SyncBatchNorm as _SyncBatchNorm
from .resolve import resolve

__all__ = ["SyncBatchNorm", "revert_sync_batchnorm"]

_WEIGHTING = {"default": "equal", "N": "batch"}


class SyncBatchNorm(TakesArrays, _SyncBatchNorm):
    """mmcv.ops.SyncBatchNorm: its arguments, defaults, conventions and state dict.

    num_features, eps, momentum, affine, track_running_stats: as in torch.nn.BatchNorm2d, but weight
    is drawn from U(0, 1). Without running statistics an evaluation uses those of the batch over the
    group as well, so that every rank takes part in it.
    group: a process group or a list of global ranks; None: all ranks. All that SyncBatchNorm of
    syncnorm.torch takes as process_group is possible too.
    stats_mode: "default", every rank's statistics count alike, or "N", by its number of samples.
    name, timeout, device, dtype: as in syncnorm.torch.SyncBatchNorm; mmcv does not have them.

    running_var gets the variance times m/(m-1), where m is this rank's number of values times the
    number of ranks; times 1 where m is 0 or 1. The gradients of weight and bias are the means over
    the group.

    Differences, where mmcv is wrong or fails: with "N" and unequal batches the gradient of the
    input is exact; a rank without data does not count in "default" (mmcv takes its mean as 0);
    num_batches_tracked does not count a batch that is empty on all ranks; running_var stays finite
    where m is 1; affine=False works.

    Raises ValueError, which is an AssertionError too, for another stats_mode.
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
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            group,
            device,
            dtype,
            weighting=_weighting(stats_mode),
            variance_factor="unbiased_local",
            grad_reduction="mean",
            name=name,
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
        """The process group; of all ranks where none was given; a list of ranks until they talk."""
        group = self.process_group
        return dist.group.WORLD if group is None and dist.is_available() else group

    @group.setter
    def group(self, group: Any) -> None:
        self.process_group = group

    @property
    def group_size(self) -> int:
        """The number of ranks in the group; 1 where torch.distributed is not initialized."""
        if isinstance(self.process_group, list | tuple):
            return len(self.process_group)
        group = resolve(self.current_group())
        return 1 if group is None else group.size

    def reset_parameters(self) -> None:
        """Weight from U(0, 1), bias 0, and reset_running_stats()."""
        super().reset_parameters()
        if self.weight is not None:
            nn.init.uniform_(self.weight)

    def _joins(self) -> bool:
        return self.training or not self.track_running_stats

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine},"
            f" track_running_stats={self.track_running_stats}, stats_mode={self.stats_mode}"
        )


def _weighting(stats_mode: str) -> str:
    if stats_mode not in _WEIGHTING:
        raise RefusedArgument(f'"stats_mode" only accepts "default" and "N", got "{stats_mode}"')
    return _WEIGHTING[stats_mode]


register_own(SyncBatchNorm)
