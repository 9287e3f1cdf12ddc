"""syncnorm communicators for the ranks of a torch.distributed process group."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from typing_extensions import Unpack

from syncnorm import Communicator, InvalidArgumentError
from syncnorm.comm import NcclOptions, from_callback, from_nccl_id
from syncnorm.comm.nccl_id import broadcast_new_id

from .groups.process_group import TorchGroup
from .groups.resolve import required

_CPU = torch.device("cpu")


def host_communicator(process_group: Any = None, timeout: float | None = None) -> Communicator:
    """Return a communicator of the ranks of a torch.distributed group, for CPU arrays.

    For code that calls syncnorm.numpy or the core directly; a layer of syncnorm.torch takes the
    process group itself. The sums are collectives of the group, in order with its others. The
    communicator cannot be split; create another group instead.

    Args:
        process_group: The group, a one-dimensional DeviceMesh such as mesh["dp"], or None for the
            default group. Its backend must support CPU tensors, as gloo does.
        timeout: Seconds that a sum may take, if the backend supports timeouts per call. None uses
            the timeout of the group.

    Raises:
        InvalidArgumentError: The group cannot sum CPU tensors, or timeout is out of range.
        ArgumentTypeError: process_group is not a torch.distributed group.
        DesyncError: Raised by a sum if the ranks are in different calls.
    """
    group = required(process_group)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    torch_group = TorchGroup(group, size, None, timeout)
    torch_group.check_device(_CPU)

    def sum(src: memoryview, dst: memoryview) -> None:
        (total,) = torch_group.all_reduce([_tensor(bytearray(src))])
        _tensor(dst).copy_(total)

    return from_callback(rank, size, sum)


def nccl_communicator(
    process_group: Any = None,
    device: torch.device | str | int | None = None,
    **options: Unpack[NcclOptions],
) -> Communicator:
    """Return a new NCCL communicator of the ranks of a torch.distributed group.

    Collective over the group, which, with any backend, only broadcasts the NCCL id. A layer of
    syncnorm.torch takes the communicator as its process_group: it then sums on the stream of the
    layer, and CUDA graphs can capture the sums.

    Args:
        process_group: The group, a one-dimensional DeviceMesh such as mesh["dp"], or None for the
            default group.
        device: CUDA device of this rank. None or "cuda" uses torch's current device.
        **options: NcclOptions.

    Raises:
        InvalidArgumentError: device is not a CUDA device.
        ArgumentTypeError: process_group is not a torch.distributed group.
        Error: As syncnorm.comm.from_nccl_id; on all ranks if the first one cannot create an id.
    """
    group = required(process_group)
    rank, size, index = dist.get_rank(group), dist.get_world_size(group), _device_index(device)

    def broadcast(message: bytes | None) -> bytes:
        messages: list[Any] = [message]
        # A group over nccl broadcasts from the current device.
        with torch.cuda.device(index) if torch.cuda.is_available() else nullcontext():
            dist.broadcast_object_list(messages, group=group, group_src=0)
        return bytes(messages[0])

    return from_nccl_id(broadcast_new_id(rank, broadcast), rank, size, index, **options)


def job_group(timeout: float | None) -> dist.ProcessGroup:
    """Return a group of all ranks that sums CPU tensors. Collective.

    It is the default group, initialized with gloo if necessary; or a new gloo group, if the default
    group supports CUDA tensors only. timeout: seconds, for a group that this call creates.
    """
    delta = None if timeout is None else timedelta(seconds=timeout)
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=delta)
    group = required(None)
    try:
        TorchGroup(group, group.size()).check_device(_CPU)
    except ValueError:
        gloo_group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=delta)
        return gloo_group
    return group


def _tensor(buffer: bytearray | memoryview) -> torch.Tensor:
    if not buffer:  # torch.frombuffer rejects empty buffers
        return torch.empty(0, dtype=torch.float64)
    return torch.frombuffer(buffer, dtype=torch.float64)


def _device_index(device: torch.device | str | int | None) -> int:
    if isinstance(device, int):
        return device
    chosen = torch.device("cuda" if device is None else device)
    if chosen.type != "cuda":
        raise InvalidArgumentError(f"device: got {chosen}, expected a CUDA device, as 'cuda:0'")
    if chosen != torch.device("cuda"):  # which has no index
        return chosen.index
    # Without a usable device the core reports the reason for device 0.
    return torch.cuda.current_device() if torch.cuda.is_available() else 0
