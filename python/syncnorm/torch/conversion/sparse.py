"""Layers of spconv, mmcv.ops and torchsparse, which normalize the features of sparse tensors.

MinkowskiEngine's layers need no rule: they call the batch normalization that they contain.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _LazyNormBase

from syncnorm.torch.layer import SyncBatchNorm, SyncBatchNorm1d

from .combined import combined
from .registry import register_conversion, restored, rule_for

_CONTAINERS = {
    "spconv.modules.SparseSequential",
    "spconv.pytorch.modules.SparseSequential",
    "mmcv.ops.sparse_modules.SparseSequential",
}
_SPCONV = "spconv.pytorch.modules"


class _OnFeatures(nn.Module):
    """The layer of the next base class, for sparse tensors too.

    A SparseSequential gives other layers the features, but not those of a tensor without points: a
    layer that synchronizes would leave the other ranks waiting.
    """

    def forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(input, "features"):
            return super().forward(input, *args, **kwargs)
        y: Tensor = super().forward(input.features, *args, **kwargs)
        if hasattr(input, "replace_feature"):
            return input.replace_feature(y)
        input.features = y  # before spconv 2, and in mmcv
        return input


def accept_sparse_tensors(root: nn.Module) -> None:
    """Make every SyncBatchNorm in a SparseSequential one that gets its tensors, also empty ones."""
    for container in root.modules():
        kinds = type(container).__mro__
        if not any(f"{kind.__module__}.{kind.__qualname__}" in _CONTAINERS for kind in kinds):
            continue
        # The container gives sparse tensors to instances of this class.
        marker = next(kind for kind in kinds if kind.__name__ == "SparseModule")
        for layer in container.children():
            is_plain = isinstance(layer, SyncBatchNorm) and not rule_for(type(layer))
            if isinstance(layer, _LazyNormBase):  # reads the shape of the features
                continue
            if is_plain and not isinstance(layer, marker):
                kind: Any = type(layer)
                layer.__class__ = combined(_OnFeatures, kind, marker)


def _to_sync(old: Any, **choices: Any) -> nn.Module:
    # Its forward calls super().forward, which is then that of SyncBatchNorm.
    return _template(type(old), old, choices)


def _sync_to_sync(old: Any, **choices: Any) -> nn.Module:
    return _template(sys.modules[_SPCONV].SparseBatchNorm, old, choices)


def _to_one_rank(layer: Any, _: type[nn.Module]) -> nn.Module:
    return restored(layer, sys.modules[_SPCONV].SparseBatchNorm)


def _template(kind: type, old: Any, choices: dict[str, Any]) -> nn.Module:
    new = SyncBatchNorm1d(old.num_features, old.eps, old.momentum, device="meta", **choices)
    new.__class__ = combined(kind, SyncBatchNorm1d)
    return new


register_conversion("torchsparse.nn.modules.norm.BatchNorm", _to_sync)
register_conversion("torchsparse.nn.modules.batchnorm.BatchNorm", _to_sync)
register_conversion(f"{_SPCONV}.SparseBatchNorm", _to_sync)
register_conversion(f"{_SPCONV}.SparseSyncBatchNorm", _sync_to_sync, _to_one_rank)
