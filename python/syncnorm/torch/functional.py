"""Batch normalization synchronized over a group, as functions, and its phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .entry import batch_norm
from .operators.phases import (
    Gradients,
    center,
    grad_input,
    grad_moments,
    infer,
    infer_backward,
    moments,
    normalize,
    update_running,
)
from .options import Choices, Settings
from .shards import sync_batch_norm_shards

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Gradients",
    "Settings",
    "center",
    "grad_input",
    "grad_moments",
    "infer",
    "infer_backward",
    "moments",
    "normalize",
    "sync_batch_norm",
    "sync_batch_norm_shards",
    "update_running",
]


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
    name: str | None = None,
    timeout: float | None = None,
    **choices: Unpack[Choices],
) -> Tensor:
    """torch.nn.functional.batch_norm with statistics over the ranks of process_group.

    input: (N, C, ...). running_mean, running_var, weight, bias: (C,). In training the running
    statistics, if given, are updated in place, and num_batches_tracked, one int64, is incremented
    if given; momentum=None needs it. Without training no rank talks to another.

    residual, mask, process_group and the choices: as in SyncBatchNorm. name, of what calls this, in
    messages about ranks that disagree. timeout: how many seconds a sum over a torch.distributed
    group may take; None: as long as the group allows.
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
        name=name,
        timeout=timeout,
    )
