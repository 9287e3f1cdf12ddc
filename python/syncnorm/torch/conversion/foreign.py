"""Layers of other libraries that are converted in a way of their own.

They are recognised by name and not imported. The same holds for BatchNormAct, which has the
interface of one of them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from syncnorm.torch.module import SyncBatchNorm

from .norm_act import BatchNormAct, SyncBatchNormAct
from .registry import NotConvertible, on_one_rank, register_conversion, require_plain


def _empty(layer: type[SyncBatchNorm], old: Any, **choices: Any) -> SyncBatchNorm:
    return layer(old.num_features, old.eps, old.momentum, device="meta", **choices)


def _act_to_sync(old: Any, **choices: Any) -> SyncBatchNorm:
    submodules = sorted(vars(old)["_modules"])
    if submodules != ["act", "drop"]:
        raise NotConvertible(f"has the submodules {submodules}, expected act and drop")
    return _empty(SyncBatchNormAct, old, **choices)


def _apex_to_sync(old: Any, **choices: Any) -> SyncBatchNorm:
    # The implementation in Python has neither attribute.
    if getattr(old, "channel_last", False):
        raise NotConvertible("takes its channels in the last dimension")
    if getattr(old, "fuse_relu", False):
        choices["activation"] = "relu"
    return _empty(SyncBatchNorm, old, **choices)


def _channels_last_to_sync(_: Any, **__: Any) -> SyncBatchNorm:
    raise NotConvertible("takes its channels in the last dimension")


def _sync_to_one_rank(layer: SyncBatchNorm, _: type[nn.Module]) -> nn.Module:
    return on_one_rank(layer)


def _abn_to_sync(old: Any, **choices: Any) -> SyncBatchNorm:
    parameter = old.activation_param
    if old.activation == "elu" and parameter != 1:
        raise NotConvertible(f"has an elu with alpha={parameter}")
    if old.activation == "leaky_relu":
        choices["negative_slope"] = parameter
    return _empty(SyncBatchNorm, old, **{**choices, "activation": old.activation})


def _sync_to_abn(layer: SyncBatchNorm, kind: type[nn.Module]) -> nn.Module:
    require_plain(layer)
    new = kind.__new__(kind)
    vars(new)["activation"] = layer.activation
    vars(new)["activation_param"] = 1.0 if layer.activation == "elu" else layer.negative_slope
    return new


def _inplace_abn_to_sync(_: Any, **__: Any) -> SyncBatchNorm:
    raise NotConvertible("multiplies by |weight| + eps instead of weight")


def register_known_kinds() -> None:
    """Register what this module knows."""
    register_conversion(BatchNormAct, _act_to_sync)
    register_conversion("timm.layers.norm_act.BatchNormAct2d", _act_to_sync)
    register_conversion("timm.layers.norm_act.SyncBatchNormAct", _act_to_sync, _sync_to_one_rank)
    for name in (
        "apex.parallel.sync_batchnorm.SyncBatchNorm",
        "apex.parallel.optimized_sync_batchnorm.SyncBatchNorm",
    ):
        register_conversion(name, _apex_to_sync, _sync_to_one_rank)
    register_conversion("apex.contrib.groupbn.batch_norm.BatchNorm2d_NHWC", _channels_last_to_sync)
    register_conversion("inplace_abn.abn.ABN", _abn_to_sync, _sync_to_abn)
    for name in ("inplace_abn.abn.InPlaceABN", "inplace_abn.abn.InPlaceABNSync"):
        register_conversion(name, _inplace_abn_to_sync)
