"""Synchronized batch normalization as a library. This package imports no framework.

The layers are in `syncnorm.torch`, `syncnorm.cupy`, `syncnorm.numpy` and `syncnorm.jax`;
communicators are made in `syncnorm.comm`.
"""

from __future__ import annotations

from syncnorm._core import (
    Communicator,
    CommunicatorTimeoutError,
    CudaError,
    DesyncError,
    Error,
    InternalError,
    InvalidArgumentError,
    NcclError,
    Options,
    OutOfMemoryError,
    UnsupportedError,
    version,
)

from ._capabilities import capabilities

__version__ = version()

__all__ = [
    "Communicator",
    "CommunicatorTimeoutError",
    "CudaError",
    "DesyncError",
    "Error",
    "InternalError",
    "InvalidArgumentError",
    "NcclError",
    "Options",
    "OutOfMemoryError",
    "UnsupportedError",
    "__version__",
    "capabilities",
]
