"""Who sums the wires: a torch.distributed group, a syncbn communicator, or nobody."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from syncbn import Communicator

# How many synchronized forward passes this process has begun in each group. The count is the tag of
# the call, so that ranks that are in different calls notice it.
_calls: WeakKeyDictionary[Any, Iterator[int]] = WeakKeyDictionary()


class TorchGroup:
    """The sum of a wire over a torch.distributed group of more than one rank."""

    __slots__ = ("process_group", "size")

    def __init__(self, process_group: Any, size: int) -> None:
        self.process_group = process_group
        self.size = size

    def next_tag(self) -> int:
        calls = _calls.get(self.process_group)
        if calls is None:
            calls = _calls.setdefault(self.process_group, itertools.count(1))
        return next(calls)

    def sum_each(self, wires: list[Tensor]) -> list[Tensor]:
        """Each wire summed over the group, in a tensor of its own. Every rank calls it."""
        totals = [wire.clone() for wire in wires]
        for total in totals:
            dist.all_reduce(total, group=self.process_group)
        return totals

    def check_device(self, device: torch.device) -> None:
        """Raise ValueError unless a backend of the group sums tensors on this device."""
        try:
            self.process_group._get_backend(device)  # noqa: SLF001 - there is no public way
        except RuntimeError as error:
            raise ValueError(
                f"process_group: its backend '{dist.get_backend(self.process_group)}' cannot sum"
                f" tensors on {device}, where the input is; expected a group with a backend for"
                f" that device, such as init_process_group('cpu:gloo,cuda:nccl')"
            ) from error


Group = TorchGroup | Communicator | None


def resolve(process_group: Any) -> Group:
    """Who sums for a layer with this process_group; None where there is but one rank.

    process_group: a torch.distributed ProcessGroup, a syncbn Communicator, or None for the default
    group of torch.distributed, and no group where that was not initialized.
    """
    if isinstance(process_group, Communicator):
        return process_group if process_group.size > 1 else None
    if process_group is None:
        if not (dist.is_available() and dist.is_initialized()):
            return None
        process_group = dist.group.WORLD
    if not dist.is_available() or not isinstance(process_group, dist.ProcessGroup):
        raise _not_a_group(process_group)
    size = process_group.size()
    return TorchGroup(process_group, size) if size > 1 else None


def required(process_group: Any) -> dist.ProcessGroup:
    """The ProcessGroup itself, or the default one for None; ValueError or TypeError without one."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "process_group: torch.distributed is not initialized; call"
            " torch.distributed.init_process_group first"
        )
    if process_group is None:
        process_group = dist.group.WORLD
    if not isinstance(process_group, dist.ProcessGroup):
        raise _not_a_group(process_group)
    return process_group


def _not_a_group(process_group: Any) -> Exception:
    if dist.is_available() and process_group is dist.GroupMember.NON_GROUP_MEMBER:
        return ValueError(
            "process_group: this rank is not in the group; expected, on every rank, a group of"
            " which it is a member"
        )
    return TypeError(
        f"process_group: got {type(process_group).__name__}, expected a torch.distributed"
        " ProcessGroup, a syncbn.Communicator or None"
    )
