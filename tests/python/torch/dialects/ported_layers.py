"""The layers of mxnet, paddle and megengine, each beside the formulas of its system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import megengine_formulas
import mxnet_formulas
import paddle_formulas
import torch
from ported_steps import CHANNELS, Dialect
from torch import nn

from syncnorm.torch import megengine, mxnet, paddle


@dataclass(frozen=True)
class System:
    """names: of weight, bias, running mean and variance. group: the argument. weighting and
    running_var: of the vector of unequal shards.
    """

    layer: Callable[..., nn.Module]
    formulas: Callable[..., Any]
    names: tuple[str, str, str, str]
    group: str
    weighting: str
    running_var: str


SYSTEMS = {
    "mxnet": System(
        mxnet.SyncBatchNorm,
        mxnet_formulas.Operator,
        ("gamma", "beta", "running_mean", "running_var"),
        "process_group",
        "equal",
        "1.975",
    ),
    "paddle": System(
        paddle.SyncBatchNorm,
        paddle_formulas.Layer,
        ("weight", "bias", "_mean", "_variance"),
        "process_group",
        "count",
        "1.756",
    ),
    "megengine": System(
        megengine.SyncBatchNorm,
        megengine_formulas.Function,
        ("weight", "bias", "running_mean", "running_var"),
        "group",
        "count",
        "1.97",
    ),
}


def dialect(
    name: str, channels: int = CHANNELS, formulas: dict[str, Any] | None = None, **options: Any
) -> Dialect:
    """The system of this name. formulas: arguments of those; options: of the layer."""
    system = SYSTEMS[name]

    def layer(group: Any, dtype: torch.dtype) -> nn.Module:
        return system.layer(channels, dtype=dtype, **{system.group: group}, **options)

    return Dialect(system.names, layer, partial(system.formulas, **(formulas or {})))
