"""Synchronized batch normalization for PyTorch."""

from __future__ import annotations

from . import functional
from .convert import BatchNorm, convert_sync_batchnorm, revert_sync_batchnorm
from .functional import sync_batch_norm, sync_batch_norm_shards
from .module import SyncBatchNorm
from .nccl import nccl_communicator

__all__ = [
    "BatchNorm",
    "SyncBatchNorm",
    "convert_sync_batchnorm",
    "functional",
    "nccl_communicator",
    "revert_sync_batchnorm",
    "sync_batch_norm",
    "sync_batch_norm_shards",
]
