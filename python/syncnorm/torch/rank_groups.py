"""The torch.distributed groups of this process by their ranks: those there are, and new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist


def is_initialized() -> bool:
    """Whether torch.distributed is there and initialized."""
    return dist.is_available() and dist.is_initialized()


def groups_of(ranks: Sequence[int]) -> list[dist.ProcessGroup]:
    """The groups of this process that have these global ranks in this order, oldest first."""
    if not is_initialized():
        return []
    # torch.distributed has no public list of its groups. What is no ProcessGroup stands for a group
    # of other ranks.
    registry = dist.distributed_c10d._world.pg_group_ranks  # noqa: SLF001
    return [
        group
        for group, members in registry.items()
        if isinstance(group, dist.ProcessGroup) and list(members) == list(ranks)
    ]


def of_ranks(ranks: Sequence[int]) -> Any:
    """The group of these global ranks, made where this process has none yet; None for all ranks.

    All of these ranks call it, the others need not. Raises ValueError where this rank is none of
    them, TypeError for what are no ranks.
    """
    if not all(isinstance(rank, int) for rank in ranks):
        raise TypeError(f"process_group: got {ranks!r}, expected a list of ranks, which are ints")
    world, this = (dist.get_world_size(), dist.get_rank()) if is_initialized() else (1, 0)
    in_order = sorted(set(ranks))
    if len(in_order) != len(ranks) or any(not 0 <= rank < world for rank in ranks):
        raise ValueError(
            f"process_group: got the ranks {list(ranks)}, expected different ranks from 0 to"
            f" {world - 1}, those of torch.distributed's default group"
        )
    if this not in ranks:
        raise ValueError(
            f"process_group: got the ranks {list(ranks)} on rank {this}, expected, on every rank,"
            " those of a group of which it is a member"
        )
    if len(in_order) == world:
        return None
    existing = groups_of(in_order)
    return existing[0] if existing else _made(in_order, this)


def _made(ranks: list[int], this: int) -> Any:
    """A new group of these ranks, which only they call.

    torch names it by its ranks and the number of groups that a process has. Ranks that differ in
    that number would wait for each other, and a name that was used before, by a group that has been
    destroyed, leads to addresses that are gone. So the ranks agree on a number, by the store of the
    default group, and those that have fewer make groups of their own before.
    """
    names = dist.distributed_c10d._world.pg_names  # noqa: SLF001
    store = dist.distributed_c10d._get_default_store()  # noqa: SLF001
    place = f"syncnorm/{'_'.join(map(str, ranks))}"
    meeting = f"{place}/meeting {store.add(f'{place}/meetings of {this}', 1)}"
    unused = store.add(f"{place}/unused of {this}", 0)
    store.set(f"{meeting}/{this}", str(max(unused, len(names))))
    agreed = max(int(store.get(f"{meeting}/{rank}")) for rank in ranks)
    store.add(f"{place}/unused of {this}", agreed + 1 - unused)
    while len(names) < agreed:
        dist.new_group([this], use_local_synchronization=True)
    return dist.new_group(ranks, use_local_synchronization=True)
