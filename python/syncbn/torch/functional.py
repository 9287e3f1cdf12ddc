"""Batch normalization synchronized over a group, as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .entry import batch_norm
from .options import Choices, Settings
from .shards import sync_batch_norm_shards

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["sync_batch_norm", "sync_batch_norm_shards"]


def sync_batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    process_group: Any = None,
    **choices: Unpack[Choices],
) -> Tensor:
    """torch.nn.functional.batch_norm with statistics over the ranks of process_group.

    In training the running statistics, if given, are updated in place, and num_batches_tracked, if
    given, is incremented; momentum=None needs it. Without training no rank talks to another.
    """
    return batch_norm(
        Settings(eps, momentum, **choices),
        input,
        training=training,
        running_mean=running_mean,
        running_var=running_var,
        num_batches_tracked=num_batches_tracked,
        weight=weight,
        bias=bias,
        residual=residual,
        mask=mask,
        process_group=process_group,
    )
