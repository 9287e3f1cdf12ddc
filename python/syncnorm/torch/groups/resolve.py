"""Find the Group that a process_group argument means."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from syncnorm import ArgumentTypeError, Communicator, InvalidArgumentError

from .pickling import KeptCommunicator, KeptGroup, found_again, not_found
from .process_group import ALONE, Group, TorchGroup
from .rank_lists import is_initialized, of_description


def resolve(
    process_group: Any, name: str | None = None, timeout: float | None = None, number: int = 0
) -> Group:
    """Return the Group that a layer uses.

    Args:
        process_group: As in SyncBatchNorm, or ALONE.
        name, timeout: Those of the layer.
        number: Identifies a layer without a name.
    """
    if isinstance(process_group, Group):  # ALONE
        return process_group
    if isinstance(process_group, Communicator):
        size = process_group.size
        return Group(size, process_group, name, number) if size > 1 else ALONE
    if process_group is None:
        group: Any = dist.group.WORLD if is_initialized() else None
    else:
        group = torch_group(process_group)
    if group is None:
        return ALONE
    size = group.size()
    return TorchGroup(group, size, name, timeout, number) if size > 1 else ALONE


def required(process_group: Any) -> dist.ProcessGroup:
    """Return the ProcessGroup that is meant; raise if there is none."""
    if not is_initialized():
        raise InvalidArgumentError(
            "process_group: torch.distributed is not initialized; call init_process_group first"
        )
    if isinstance(process_group, Communicator):
        raise ArgumentTypeError(
            "process_group: got a syncnorm.Communicator, expected a torch.distributed group"
        )
    group = torch_group(process_group)
    assert group is not None
    return group


def torch_group(process_group: Any) -> dist.ProcessGroup | None:
    """Return the ProcessGroup that is meant; None if torch.distributed is not initialized."""
    if not dist.is_available() or not isinstance(process_group, dist.ProcessGroup):
        process_group = _found(process_group)
    if process_group is None:
        return dist.group.WORLD if is_initialized() else None
    if dist.is_available():
        if isinstance(process_group, dist.ProcessGroup):
            return process_group
        if isinstance(process_group, int) and process_group == dist.GroupMember.NON_GROUP_MEMBER:
            raise InvalidArgumentError(
                "process_group: this rank is not in the group; expected on every rank a group that"
                " contains it"
            )
    raise ArgumentTypeError(
        f"process_group: got {type(process_group).__name__}, expected a torch.distributed"
        " ProcessGroup, a DeviceMesh of one dimension, a list of ranks, 'node', a"
        " syncnorm.Communicator or None"
    )


def _found(process_group: Any) -> Any:
    """Return the group that is described, or was saved, or of a mesh; else the argument."""
    process_group = of_description(process_group)
    if isinstance(process_group, KeptGroup | KeptCommunicator):
        kept, process_group = process_group, found_again(process_group)
        if process_group is kept:
            raise not_found(kept)
    if isinstance(process_group, DeviceMesh):
        mesh = process_group
        if mesh.ndim != 1:
            names = mesh.mesh_dim_names
            example = f"mesh['{names[0]}']" if names else "mesh.get_group(0)"
            raise InvalidArgumentError(
                f"process_group: got a DeviceMesh of {mesh.ndim} dimensions,"
                f" {names or 'without names'}, expected one of 1 dimension, over which the batch is"
                f" divided, such as {example}"
            )
        is_member = mesh.get_coordinate() is not None  # otherwise as new_group
        process_group = mesh.get_group() if is_member else dist.GroupMember.NON_GROUP_MEMBER
    return process_group
