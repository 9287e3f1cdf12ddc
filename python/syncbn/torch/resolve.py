"""From what may be given as process_group to who sums."""

from __future__ import annotations

from typing import Any, Final

import torch.distributed as dist

from syncbn import Communicator

from .group import CoreGroup, Group, TorchGroup


class _Alone:
    def __repr__(self) -> str:
        return "ALONE"


# As a process_group: this rank by itself, whatever groups there are.
ALONE: Final = _Alone()


def resolve(process_group: Any, name: str | None = None, timeout: float | None = None) -> Group:
    """Who sums for a layer with this process_group; None where there is but one rank.

    process_group: a torch.distributed ProcessGroup, a syncbn Communicator, ALONE, or None for the
    default group of torch.distributed, and no group where that was not initialized.
    """
    if process_group is ALONE:
        return None
    if isinstance(process_group, Communicator):
        return CoreGroup(process_group, name) if process_group.size > 1 else None
    if process_group is None:
        if not (dist.is_available() and dist.is_initialized()):
            return None
        process_group = dist.group.WORLD
    if not dist.is_available() or not isinstance(process_group, dist.ProcessGroup):
        raise _not_a_group(process_group)
    size = process_group.size()
    return TorchGroup(process_group, size, name, timeout) if size > 1 else None


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
