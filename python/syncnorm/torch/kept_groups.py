"""What a pickle holds of a layer's group, and how the group is found again.

A group lives in its processes only, so a pickle holds what it takes to recognize it: its ranks.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from syncnorm import Communicator

from .rank_groups import groups_of, is_initialized, of_ranks

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class KeptGroup:
    """A torch.distributed group, as a pickle holds it.

    ranks: the global ranks in the group's order; None for a group that was destroyed before.
    """

    ranks: tuple[int, ...] | None
    name: str
    description: str


@dataclass(frozen=True)
class KeptCommunicator:
    """That there was a syncnorm.Communicator, which cannot be found again."""

    rank: int
    size: int


Kept = KeptGroup | KeptCommunicator


class KeepsGroup(nn.Module):
    """A layer whose process_group outlives copies and pickles."""

    process_group: Any

    def current_group(self) -> Any:
        """process_group, which is looked for again where it did not exist when self was loaded.

        And made of a list of ranks, with the first call.
        """
        if isinstance(self.process_group, KeptGroup):
            self.process_group = found_again(self.process_group)
        elif isinstance(self.process_group, list | tuple):
            self.process_group = of_ranks(self.process_group)
        return self.process_group

    def __copy__(self) -> Self:
        copied = self.__class__.__new__(self.__class__)
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy that talks in the same group: a group cannot be copied, and need not be."""
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        memo[id(self.process_group)] = self.process_group
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process_group": keep(self.process_group)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.process_group = found_again(self.process_group)


def keep(process_group: Any) -> Any:
    """process_group as a pickle can hold it; None for the default group, whatever it will be."""
    if _is_default(process_group):
        return None
    if isinstance(process_group, Communicator):
        return KeptCommunicator(process_group.rank, process_group.size)
    if isinstance(process_group, DeviceMesh) and process_group.ndim == 1:
        return _kept_mesh(process_group)
    if dist.is_available() and isinstance(process_group, dist.ProcessGroup):
        return _kept(process_group)
    return process_group


def found_again(process_group: Any) -> Any:
    """The group of this process that was kept, or process_group itself where there is none."""
    if not isinstance(process_group, KeptGroup) or process_group.ranks is None:
        return process_group
    groups = groups_of(process_group.ranks)
    of_the_name = [group for group in groups if group.group_name == process_group.name]
    of_the_kind = [group for group in groups if group.group_desc == process_group.description]
    # Among equals the oldest, which is the same one on every rank.
    return next(iter(of_the_name or of_the_kind or groups), process_group)


def not_found(kept: Kept) -> ValueError:
    """What a layer raises when it needs the group that it was saved with."""
    return ValueError(
        f"process_group: the layer was saved {_what_was_lost(kept)}set the layer's process_group to"
        " the group to use, or to None for the default group"
    )


def _what_was_lost(kept: Kept) -> str:
    if isinstance(kept, KeptCommunicator):
        return (
            f"with a syncnorm.Communicator (rank {kept.rank} of {kept.size}), which lives in its"
            " process only; make a new one and "
        )
    group = f"group '{kept.name}' ({kept.description})"
    if kept.ranks is None:
        return f"after its {group} had been destroyed, so that its ranks are not known; "
    ranks = list(kept.ranks)
    saved = f"with the {group} of the ranks {ranks}"
    create = f"create the group on every rank with torch.distributed.new_group({ranks}), or "
    if not is_initialized():
        return f"{saved}, and torch.distributed is not initialized; initialize it and {create}"
    this_process = f"this process, rank {dist.get_rank()} of {dist.get_world_size()}"
    if dist.get_rank() not in ranks:
        return f"{saved}, and {this_process}, is none of them; "
    return f"{saved}, and {this_process}, has no such group; {create}"


def _is_default(process_group: Any) -> bool:
    if process_group is None:
        return True
    return is_initialized() and process_group is dist.group.WORLD


def _kept(group: dist.ProcessGroup) -> KeptGroup:
    name, description = group.group_name, group.group_desc
    try:
        return KeptGroup(tuple(dist.get_process_group_ranks(group)), name, description)
    except KeyError:  # the group was destroyed
        return KeptGroup(None, name, description)


def _kept_mesh(mesh: DeviceMesh) -> KeptGroup:
    try:
        return _kept(mesh.get_group())
    except (RuntimeError, IndexError):
        # It was destroyed, or this rank is not in it; a mesh knows its ranks all the same.
        return KeptGroup(tuple(sorted(mesh.mesh.tolist())), "mesh", "gone")
