"""Synchronized batch normalization for PyTorch."""

from __future__ import annotations

from . import functional
from .communicators import host_communicator, nccl_communicator
from .conversion.convert import convert_sync_batchnorm, revert_sync_batchnorm
from .conversion.norm_act import (
    BatchNorm,
    BatchNormAct,
    SyncBatchNormAct,
    SyncBatchNormAct2d,
)
from .conversion.registry import NotConvertible, register_conversion
from .functional import sync_batch_norm, sync_batch_norm_shards
from .groups.thread_replicas import thread_replicas
from .integrations.install import install, uninstall
from .layer import SyncBatchNorm, SyncBatchNorm1d, SyncBatchNorm2d, SyncBatchNorm3d
from .lazy import (
    LazySyncBatchNorm,
    LazySyncBatchNorm1d,
    LazySyncBatchNorm2d,
    LazySyncBatchNorm3d,
)

__all__ = [
    "BatchNorm",
    "BatchNormAct",
    "LazySyncBatchNorm",
    "LazySyncBatchNorm1d",
    "LazySyncBatchNorm2d",
    "LazySyncBatchNorm3d",
    "NotConvertible",
    "SyncBatchNorm",
    "SyncBatchNorm1d",
    "SyncBatchNorm2d",
    "SyncBatchNorm3d",
    "SyncBatchNormAct",
    "SyncBatchNormAct2d",
    "convert_sync_batchnorm",
    "functional",
    "host_communicator",
    "install",
    "nccl_communicator",
    "register_conversion",
    "revert_sync_batchnorm",
    "sync_batch_norm",
    "sync_batch_norm_shards",
    "thread_replicas",
    "uninstall",
]
