"""Synchronized batch normalization for PyTorch."""

from __future__ import annotations

from . import functional
from .communicators import host_communicator, nccl_communicator
from .conversion.convert import convert_sync_batchnorm, revert_sync_batchnorm
from .conversion.norm_act import BatchNorm, BatchNormAct, SyncBatchNormAct
from .conversion.registry import NotConvertible, register_conversion
from .functional import sync_batch_norm, sync_batch_norm_shards
from .lazy import LazySyncBatchNorm
from .module import SyncBatchNorm
from .thread_replicas import thread_replicas

__all__ = [
    "BatchNorm",
    "BatchNormAct",
    "LazySyncBatchNorm",
    "NotConvertible",
    "SyncBatchNorm",
    "SyncBatchNormAct",
    "convert_sync_batchnorm",
    "functional",
    "host_communicator",
    "nccl_communicator",
    "register_conversion",
    "revert_sync_batchnorm",
    "sync_batch_norm",
    "sync_batch_norm_shards",
    "thread_replicas",
]
