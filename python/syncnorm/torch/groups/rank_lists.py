"""Find or create the torch.distributed group of a list of ranks, of a machine, or of a size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist

from syncnorm import ArgumentTypeError, InvalidArgumentError, UnsupportedError
from syncnorm.torch.desync.records import is_fake, records

from .relative import NODE, GroupSize, neighbours, ranks_of_node

# By default group: the groups of NODE and of sizes; None for all ranks.
_found: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def is_initialized() -> bool:
    """Return whether torch.distributed is available and initialized."""
    return dist.is_available() and dist.is_initialized()


def groups_of(ranks: Sequence[int]) -> list[dist.ProcessGroup]:
    """Return the groups of this process with these global ranks in this order, oldest first."""
    if not is_initialized():
        return []
    # torch.distributed has no public list of its groups. An entry that is no ProcessGroup is a
    # group without this rank.
    registry = dist.distributed_c10d._world.pg_group_ranks  # noqa: SLF001
    return [
        group
        for group, members in registry.items()
        if isinstance(group, dist.ProcessGroup) and list(members) == list(ranks)
    ]


def of_description(process_group: Any) -> Any:
    """Return the group of a list of ranks, NODE or a GroupSize, or the argument if it is no such.

    None stands for all ranks. Collective over the ranks of the group, which the first call creates.
    The first call for NODE is collective over all ranks, unless torchrun's environment names those
    of the machine.
    """
    if isinstance(process_group, list | tuple):
        return of_ranks(process_group)
    is_node = isinstance(process_group, str) and process_group == NODE
    if not is_node and not isinstance(process_group, GroupSize):
        return process_group
    if not is_initialized():
        return None if is_node else of_ranks(neighbours(process_group.size, 0, 1))
    found = _found.setdefault(dist.group.WORLD, {})
    group = found.get(process_group)
    is_there = group is None or group in dist.distributed_c10d._world.pg_map  # noqa: SLF001
    if process_group not in found or not is_there:
        group = found[process_group] = of_ranks(_ranks_of(process_group))
    return group


def _ranks_of(process_group: Any) -> list[int]:
    rank, world = dist.get_rank(), dist.get_world_size()
    if isinstance(process_group, GroupSize):
        return neighbours(process_group.size, rank, world)
    # A dry run has one process.
    return list(range(world)) if is_fake(dist.group.WORLD) else ranks_of_node(rank, world)


def of_ranks(ranks: Sequence[int]) -> Any:
    """Return the group of these global ranks, created if this process has none; None for all ranks.

    Collective over these ranks; other ranks need not call it.
    """
    if not all(isinstance(rank, int) for rank in ranks):
        text = f"process_group: got {ranks!r}, expected a list of ranks, which are ints"
        raise ArgumentTypeError(text)
    world, this_rank = (dist.get_world_size(), dist.get_rank()) if is_initialized() else (1, 0)
    in_order, got = sorted(set(ranks)), f"process_group: got the ranks {list(ranks)}"
    if len(in_order) != len(ranks) or any(not 0 <= rank < world for rank in ranks):
        expected = f"expected different ranks from 0 to {world - 1}"
        if not is_initialized():
            expected += "; torch.distributed is not initialized: call init_process_group first"
        raise InvalidArgumentError(f"{got}, {expected}")
    if this_rank not in ranks:
        expected = "expected on every rank a list that contains it"
        raise InvalidArgumentError(f"{got} on rank {this_rank}, {expected}")
    if len(in_order) == world:
        return None
    existing = groups_of(in_order)
    return existing[0] if existing else _new_group(in_order, this_rank)


def _new_group(ranks: list[int], this_rank: int) -> Any:
    """Create a group of these ranks; only they call this.

    torch names the group by its ranks and the number of groups of a process. Ranks with different
    numbers would wait for each other, and the name of a destroyed group leads to stale addresses.
    So the ranks agree on a number through the default group's store, and a rank with fewer groups
    first creates groups that contain only itself.
    """
    world = records.get(dist.group.WORLD)
    if world is not None and world.lost is not None and world.lost[0] is UnsupportedError:
        raise UnsupportedError(world.lost[1])  # in a forked child
    if is_fake(dist.group.WORLD):  # the store of a dry run has no operations
        return dist.new_group(ranks, use_local_synchronization=True)
    names = dist.distributed_c10d._world.pg_names  # noqa: SLF001
    store = dist.distributed_c10d._get_default_store()  # noqa: SLF001
    place = f"syncnorm/{'_'.join(map(str, ranks))}"
    meeting = f"{place}/meeting {store.add(f'{place}/meetings of {this_rank}', 1)}"
    unused = store.add(f"{place}/unused of {this_rank}", 0)
    store.set(f"{meeting}/{this_rank}", str(max(unused, len(names))))
    agreed = max(int(store.get(f"{meeting}/{rank}")) for rank in ranks)
    store.add(f"{place}/unused of {this_rank}", agreed + 1 - unused)
    while len(names) < agreed:
        dist.new_group([this_rank], use_local_synchronization=True)
    return dist.new_group(ranks, use_local_synchronization=True)
