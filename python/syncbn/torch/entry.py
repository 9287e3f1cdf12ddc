"""One call of batch normalization, handed to whoever computes it for this kind of input."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import frozen, synchronized
from .options import Settings, core_options
from .resolve import resolve


def batch_norm(
    settings: Settings,
    input: Tensor,
    *,
    training: bool,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    process_group: Any = None,
    name: str | None = None,
    timeout: float | None = None,
) -> Tensor:
    """activation(batch_norm(input) + residual).

    training: with the statistics of the batch over process_group, updating the running statistics
    where they are given; else with the running statistics, and no rank talks to another. name,
    timeout: of the layer, as in TorchGroup.
    """
    options = core_options(settings)
    if training:
        return synchronized.normalize(
            options,
            resolve(process_group, name, timeout),
            input,
            weight=weight,
            bias=bias,
            residual=residual,
            mask=mask,
            running_mean=running_mean,
            running_var=running_var,
            num_batches_tracked=num_batches_tracked,
        )
    if running_mean is None or running_var is None:
        raise ValueError("running_mean and running_var: got None, needed where training is False")
    return frozen.normalize(
        options, input, running_mean, running_var, weight=weight, bias=bias, residual=residual
    )
