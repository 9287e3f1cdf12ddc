"""syncnorm's own NCCL communicator over the ranks of a torch.distributed group."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from syncnorm import Communicator
from syncnorm.comm import NcclOptions, from_nccl_id
from syncnorm.comm.meeting import shared_id

from .resolve import required

if TYPE_CHECKING:
    from typing_extensions import Unpack


def nccl_communicator(
    process_group: Any = None,
    device: torch.device | str | int | None = None,
    **options: Unpack[NcclOptions],
) -> Communicator:
    """A new communicator over NCCL with the ranks of a torch.distributed group.

    Collective over the group, whose backend (gloo, nccl, ...) only carries the id. process_group:
    the group, a DeviceMesh of one dimension, such as mesh["dp"], or None for the default group.
    device: of this rank; None for torch's current one. A layer takes the communicator as its
    process_group; it then sums on the stream of the layer's work, and can be captured in a CUDA
    graph.

    Where the group's first rank cannot make an id, every rank raises its error. Raises ValueError
    for a device that is no CUDA device, TypeError for what is no torch.distributed group, and
    otherwise as syncnorm.comm.from_nccl_id.
    """
    group = required(process_group)
    rank, size, index = dist.get_rank(group), dist.get_world_size(group), _index(device)

    def share(message: bytes | None) -> bytes:
        carried: list[Any] = [message]
        with _current(index):  # where a group over nccl has its tensors
            dist.broadcast_object_list(carried, group=group, group_src=0)
        return bytes(carried[0])

    return from_nccl_id(shared_id(rank, share), rank, size, index, **options)


def _index(device: torch.device | str | int | None) -> int:
    if isinstance(device, int):
        return device
    chosen = torch.device("cuda" if device is None else device)
    if chosen.type != "cuda":
        raise ValueError(f"device: got {chosen}, expected a CUDA device, such as 'cuda:0'")
    if chosen != torch.device("cuda"):  # which has no index
        return chosen.index
    # Where torch has no device, to try the first one says why.
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def _current(index: int) -> AbstractContextManager[Any]:
    return torch.cuda.device(index) if torch.cuda.is_available() else nullcontext()
