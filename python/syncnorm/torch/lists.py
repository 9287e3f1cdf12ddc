"""A list of tensors as one batch, in one process: data parallelism without a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .entry import batch_norm
from .options import Settings
from .resolve import resolve
from .shards import check_alike, normalize_shards


def batch_norm_list(
    settings: Settings,
    inputs: Sequence[Tensor],
    *,
    training: bool,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Sequence[Tensor | None] | None = None,
    mask: Sequence[Tensor | None] | None = None,
    process_group: Any = None,
    name: str | None = None,
    timeout: float | None = None,
    repeats_update: bool = False,
) -> list[Tensor]:
    """entry.batch_norm for a list: in training with the statistics of all inputs together.

    The inputs may be on different devices; in training the running statistics are on that of the
    first. Raises ValueError in training where process_group has more than one rank.
    """
    check_alike(inputs, residual=residual, mask=mask)
    if training:
        if resolve(process_group, name, timeout) is not None:
            raise ValueError(
                f"input: got a list of {len(inputs)} tensors in training with a process group of"
                " more than one rank; expected one tensor there (torch.cat joins those of one"
                " device), or a list in a process that has no group"
            )
        return normalize_shards(
            settings,
            inputs,
            running=(running_mean, running_var, num_batches_tracked),
            weight=_at(weight, inputs[0]),
            bias=_at(bias, inputs[0]),
            residuals=residual,
            masks=mask,
            repeats_update=repeats_update,
        )
    residuals = [None] * len(inputs) if residual is None else residual
    return [
        batch_norm(
            settings,
            x,
            training=False,
            running_mean=_at(running_mean, x),
            running_var=_at(running_var, x),
            weight=_at(weight, x),
            bias=_at(bias, x),
            residual=added,
        )
        for x, added in zip(inputs, residuals, strict=True)
    ]


def _at(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    """The tensor on x's device, as an operation that autograd sees."""
    return None if tensor is None else tensor.to(x.device)
