"""Communicators: how the ranks of a group sum a small vector."""

from __future__ import annotations

from syncnorm._core import Communicator

from .environment import from_env
from .host import Abort, Split, Sum, from_callback, thread_group
from .launch import local_rank
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
    "from_env",
    "from_mpi",
    "from_nccl_id",
    "local_rank",
    "nccl_from_mpi",
    "nccl_from_store",
    "nccl_group",
    "nccl_unique_id",
    "thread_group",
]
