"""Communicators: all-reduce a small float64 vector over the ranks of a process group."""

from __future__ import annotations

from syncnorm._core import Communicator

from .host import Abort, Split, Sum, from_callback, thread_group
from .mpi import from_mpi
from .nccl import (
    CupyCommunicator,
    MpiCommunicator,
    Nccl4pyCommunicator,
    NcclOptions,
    Store,
    borrow_nccl,
    from_nccl_id,
    nccl_from_mpi,
    nccl_from_store,
    nccl_group,
    nccl_unique_id,
)

__all__ = [
    "Abort",
    "Communicator",
    "CupyCommunicator",
    "MpiCommunicator",
    "Nccl4pyCommunicator",
    "NcclOptions",
    "Split",
    "Store",
    "Sum",
    "borrow_nccl",
    "from_callback",
    "from_mpi",
    "from_nccl_id",
    "nccl_from_mpi",
    "nccl_from_store",
    "nccl_group",
    "nccl_unique_id",
    "thread_group",
]
