"""Pickle a layer's process group by its ranks, and find it again where the pickle is loaded."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.compiler import is_dynamo_compiling
from torch.distributed.device_mesh import DeviceMesh
from typing_extensions import Self

from syncnorm import Communicator, InvalidArgumentError, UnsupportedError

from .rank_lists import groups_of, is_initialized, of_ranks
from .relative import GroupSize, chosen_group


@dataclass(frozen=True)
class KeptGroup:
    """A torch.distributed group, as a pickle holds it."""

    ranks: tuple[int, ...] | None  # in the group's order; None: it had been destroyed
    name: str
    description: str


@dataclass(frozen=True)
class KeptCommunicator:
    """Placeholder for a syncnorm.Communicator, which cannot be found again."""

    rank: int
    size: int


Kept = KeptGroup | KeptCommunicator


_numbers = itertools.count(1)


class HasProcessGroup(nn.Module):
    """A layer of a process group, which survives copies and pickles."""

    process_group: Any
    layer_name: str | None = None
    _number: int = 0  # of creation; 0 for a layer that a converter made

    def _set_group(self, process_group: Any, name: str | None, size: int | None = None) -> None:
        """Set process_group and layer_name, and number the layer; size: a group_size, or None."""
        self.process_group = chosen_group(process_group, size)
        self.layer_name = name
        self._number = next(_numbers)

    def _chosen(self) -> list[str]:
        """Return the options that a layer of torch would not have, as texts."""
        raise NotImplementedError

    def current_group(self) -> Any:
        """Return process_group, found again after loading, or created from a list of ranks."""
        if self.process_group is None:
            return None
        if isinstance(self.process_group, KeptGroup):
            self.process_group = found_again(self.process_group)
        elif isinstance(self.process_group, list | tuple) and not is_dynamo_compiling():
            self.process_group = of_ranks(self.process_group)
        return self.process_group

    @property
    def group_size(self) -> int | None:
        """The size of the groups of neighbours, or None if process_group is another group."""
        return self.process_group.size if isinstance(self.process_group, GroupSize) else None

    @group_size.setter
    def group_size(self, size: int | None) -> None:
        self.process_group = chosen_group(None, size)

    def _group_repr(self) -> list[str]:
        """Return what a layer's repr shows of its group, or [] for one without a short form."""
        if isinstance(self.process_group, GroupSize):
            return [f"group_size={self.process_group.size}"]
        is_short = isinstance(self.process_group, str)
        return [f"process_group={self.process_group!r}"] if is_short else []

    def __prepare_scriptable__(self) -> None:
        """Raise UnsupportedError: torch.jit.script calls this first."""
        raise UnsupportedError(
            f"torch.jit.script cannot compile {type(self).__qualname__}, which calls a library;"
            " expected torch's own layers: use torch.jit.trace in evaluation, or, if no layer has"
            " an activation, script the model that syncnorm.torch.revert_sync_batchnorm(model)"
            " returns"
        )

    def __copy__(self) -> Self:
        copied = self.__class__.__new__(self.__class__)
        copied.__dict__.update(_state_of(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that uses the same group: a group cannot be copied."""
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        memo[id(self.process_group)] = self.process_group
        copied.__dict__.update(copy.deepcopy(_state_of(self), memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**_state_of(self), "process_group": keep(self.process_group)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.process_group = found_again(self.process_group)


def _state_of(layer: nn.Module) -> dict[str, Any]:
    """Return the layer's attributes without what torch compiled for this object."""
    return {k: v for k, v in vars(layer).items() if k != "_compiled_call_impl"}


def keep(process_group: Any) -> Any:
    """Return what a pickle holds of process_group; None for the default group."""
    if process_group is None or (is_initialized() and process_group is dist.group.WORLD):
        return None
    if isinstance(process_group, Communicator):
        return KeptCommunicator(process_group.rank, process_group.size)
    group = process_group
    if isinstance(process_group, DeviceMesh) and process_group.ndim == 1:
        try:
            group = process_group.get_group()
        except (RuntimeError, IndexError):
            # It was destroyed, or this rank is not in it. The mesh still has the ranks.
            return KeptGroup(tuple(sorted(process_group.mesh.tolist())), "mesh", "gone")
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        return process_group
    try:
        ranks: tuple[int, ...] | None = tuple(dist.get_process_group_ranks(group))
    except KeyError:
        ranks = None
    return KeptGroup(ranks, group.group_name, group.group_desc)


def found_again(process_group: Any) -> Any:
    """Return the group of this process that was kept, or process_group itself if there is none."""
    if not isinstance(process_group, KeptGroup) or process_group.ranks is None:
        return process_group
    groups = groups_of(process_group.ranks)
    same_name = [group for group in groups if group.group_name == process_group.name]
    same_description = [group for group in groups if group.group_desc == process_group.description]
    # The oldest of several is the same group on every rank.
    found = same_name or same_description or groups
    return found[0] if found else process_group


def not_found(kept: Kept) -> InvalidArgumentError:
    """Return the error of a layer that needs the group it was saved with."""
    remedy = ""
    if isinstance(kept, KeptCommunicator):
        saved = f"with a syncnorm.Communicator (rank {kept.rank} of {kept.size})"
        reason, remedy = "which exists in its process only", "create a new one and "
    elif kept.ranks is None:
        saved = f"after its group '{kept.name}' ({kept.description}) had been destroyed"
        reason = "so that its ranks are not known"
    else:
        ranks = list(kept.ranks)
        saved = f"with the group '{kept.name}' ({kept.description}) of the ranks {ranks}"
        create = f"create the group on every rank with torch.distributed.new_group({ranks}), or "
        if not is_initialized():
            reason, remedy = (
                "and torch.distributed is not initialized",
                f"initialize it and {create}",
            )
        else:
            reason = f"and this process, rank {dist.get_rank()} of {dist.get_world_size()},"
            if dist.get_rank() in ranks:
                reason, remedy = f"{reason} has no such group", create
            else:
                reason = f"{reason} is not one of them"
    return InvalidArgumentError(
        f"process_group: the layer was saved {saved}, {reason}; {remedy}set the layer's"
        " process_group to the group to use, or to None for the default group"
    )
