"""Communicators: how the ranks of a group sum a small vector."""

from __future__ import annotations

from syncbn._core import Communicator

from .host import Split, Sum, from_callback, thread_group
from .nccl import (
    MpiCommunicator,
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
    "Communicator",
    "MpiCommunicator",
    "NcclOptions",
    "Split",
    "Store",
    "Sum",
    "borrow_nccl",
    "from_callback",
    "from_nccl_id",
    "nccl_from_mpi",
    "nccl_from_store",
    "nccl_group",
    "nccl_unique_id",
    "thread_group",
]
