"""Synchronized batch normalization. This package imports no framework.

The layers are in syncnorm.torch, syncnorm.numpy, syncnorm.cupy and syncnorm.jax, the communicators
in syncnorm.comm. syncnorm.launcher creates the communicator of a job of mpirun, srun or torchrun.
"""

from __future__ import annotations

from syncnorm._core import (
    ArgumentTypeError,
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
    RankLostError,
    UnsupportedError,
    version,
)

from ._capabilities import capabilities

__version__ = version()

__all__ = [
    "ArgumentTypeError",
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
    "RankLostError",
    "UnsupportedError",
    "__version__",
    "capabilities",
]
