"""A stand-in for detectron2.solver.build: the weight decay of normalization layers."""

from __future__ import annotations

from typing import Any

from torch import nn

NORM_MODULE_TYPES = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
)


def get_default_optimizer_params(
    model: nn.Module, *, weight_decay: float, weight_decay_norm: float
) -> list[dict[str, Any]]:
    """Return parameter groups with another weight decay for normalization layers."""
    groups: dict[float, dict[str, Any]] = {}
    for module in model.modules():
        decay = weight_decay_norm if isinstance(module, NORM_MODULE_TYPES) else weight_decay
        for parameter in module.parameters(recurse=False):
            group = groups.setdefault(decay, {"params": [], "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())
