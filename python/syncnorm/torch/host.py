"""syncnorm's communicator over a torch.distributed group that sums host memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from syncnorm import Communicator
from syncnorm.comm import from_callback

from .group import TorchGroup
from .resolve import required

_CPU = torch.device("cpu")


def host_communicator(process_group: Any = None, timeout: float | None = None) -> Communicator:
    """A communicator that sums arrays of the CPU over the ranks of a torch.distributed group.

    For trainers without torch's layers, such as syncnorm.numpy; a layer of syncnorm.torch takes the
    group itself. process_group: the group, a DeviceMesh of one dimension, such as mesh["dp"], or
    None for the default group; its backend is one for the CPU, such as gloo. timeout: seconds that
    a sum may take, where the backend can count them; None: as long as the group's own timeout says.

    The sums are made on the group itself, in order with its other collectives. Ranks in different
    calls of syncnorm get DesyncError; what torch raises comes out unchanged. It cannot be split:
    make another group. Raises ValueError for a group that cannot sum on the CPU and for a timeout
    out of range, TypeError for what is no torch.distributed group.
    """
    group = required(process_group)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    ranks = TorchGroup(group, size, None, timeout)
    ranks.check_device(_CPU)

    def add_up(src: memoryview, dst: memoryview) -> None:
        (total,) = ranks.sum_each([_over(bytearray(src))])
        _over(dst).copy_(total)

    return from_callback(rank, size, add_up)


def _over(buffer: bytearray | memoryview) -> torch.Tensor:
    if not buffer:  # which torch refuses
        return torch.empty(0, dtype=torch.float64)
    return torch.frombuffer(buffer, dtype=torch.float64)


def job_group(timeout: float | None) -> dist.ProcessGroup:
    """A group of all ranks that sums on the CPU, for a job of torchrun or its like. Collective.

    The default group, which is initialized over gloo where it is not yet; a new one over gloo where
    it sums on devices only.
    """
    at_most = None if timeout is None else timedelta(seconds=timeout)
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=at_most)
    group = required(None)
    try:
        TorchGroup(group, group.size()).check_device(_CPU)
    except ValueError:
        beside: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=at_most)
        return beside
    return group
