"""From what may be given as process_group to who sums."""

from __future__ import annotations

from typing import Any, Final

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from syncnorm import Communicator

from .group import CoreGroup, Group, TorchGroup
from .kept_groups import KeptCommunicator, KeptGroup, found_again, not_found
from .rank_groups import of_ranks


class _Alone:
    def __repr__(self) -> str:
        return "ALONE"


# As a process_group: this rank by itself, whatever groups there are.
ALONE: Final = _Alone()


def resolve(process_group: Any, name: str | None = None, timeout: float | None = None) -> Group:
    """Who sums for a layer with this process_group; None where there is but one rank.

    process_group: a torch.distributed ProcessGroup, a DeviceMesh of one dimension, a list of global
    ranks, a syncnorm Communicator, ALONE, or None for the default group of torch.distributed, and
    no group where that was not initialized. name, timeout: of the layer, as in TorchGroup.
    """
    if process_group is ALONE:
        return None
    if isinstance(process_group, Communicator):
        return CoreGroup(process_group, name) if process_group.size > 1 else None
    group = torch_group(process_group)
    if group is None:
        return None
    size = group.size()
    return TorchGroup(group, size, name, timeout) if size > 1 else None


def required(process_group: Any) -> dist.ProcessGroup:
    """The ProcessGroup that is meant; ValueError or TypeError where there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "process_group: torch.distributed is not initialized; call"
            " torch.distributed.init_process_group first"
        )
    if isinstance(process_group, Communicator):
        raise TypeError(
            "process_group: got a syncnorm.Communicator, expected a torch.distributed ProcessGroup,"
            " a DeviceMesh of one dimension or None"
        )
    group = torch_group(process_group)
    assert group is not None
    return group


def torch_group(process_group: Any) -> dist.ProcessGroup | None:
    """The ProcessGroup that is meant; None for a default group that was not initialized."""
    if isinstance(process_group, list | tuple):
        process_group = of_ranks(process_group)
    if process_group is None:
        return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
    if isinstance(process_group, KeptGroup | KeptCommunicator):
        kept, process_group = process_group, found_again(process_group)
        if process_group is kept:
            raise not_found(kept)
    if isinstance(process_group, DeviceMesh):
        process_group = _group_of_mesh(process_group)
    if not dist.is_available() or not isinstance(process_group, dist.ProcessGroup):
        raise _not_a_group(process_group)
    return process_group


def _group_of_mesh(mesh: DeviceMesh) -> dist.ProcessGroup:
    if mesh.ndim == 1:
        if mesh.get_coordinate() is None:
            raise _not_a_member()
        return mesh.get_group()
    names = mesh.mesh_dim_names
    dimensions = f"{mesh.ndim} dimensions, {names or 'without names'}"
    example = f"mesh['{names[0]}']" if names else "mesh.get_group(0)"
    raise ValueError(
        f"process_group: got a DeviceMesh of {dimensions}, expected one of 1 dimension: that over"
        f" which the batch is divided, such as {example}"
    )


def _not_a_group(process_group: Any) -> Exception:
    if isinstance(process_group, int) and dist.is_available():
        outside: int = dist.GroupMember.NON_GROUP_MEMBER  # what new_group returns there
        if process_group == outside:
            return _not_a_member()
    return TypeError(
        f"process_group: got {type(process_group).__name__}, expected a torch.distributed"
        " ProcessGroup, a DeviceMesh of one dimension, a list of ranks, a syncnorm.Communicator or"
        " None"
    )


def _not_a_member() -> ValueError:
    return ValueError(
        "process_group: this rank is not in the group; expected, on every rank, a group of which it"
        " is a member"
    )
