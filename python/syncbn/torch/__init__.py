"""Synchronized batch normalization for PyTorch."""

from __future__ import annotations

from . import functional
from .convert import BatchNorm, convert_sync_batchnorm, revert_sync_batchnorm
from .functional import sync_batch_norm, sync_batch_norm_shards
from .module import SyncBatchNorm

__all__ = [
    "BatchNorm",
    "SyncBatchNorm",
    "convert_sync_batchnorm",
    "functional",
    "revert_sync_batchnorm",
    "sync_batch_norm",
    "sync_batch_norm_shards",
]
