"""The ranks of this rank's machine, and its neighbours, as groups."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch.distributed as dist

from syncnorm import ArgumentTypeError, InvalidArgumentError

# As a process_group: the ranks of one machine.
NODE: Final = "node"


@dataclass(frozen=True)
class GroupSize:
    """As a process_group: `size` neighbours in rank order. For 2 the ranks 0-1, 2-3, ..."""

    size: int


def chosen_group(process_group: Any, group_size: int | None) -> Any:
    """Return the process_group that these two arguments of a layer mean.

    Raises:
        ArgumentTypeError: group_size is not an int.
        InvalidArgumentError: group_size is below 1, or both arguments are given.
    """
    if group_size is None:
        return process_group
    if not isinstance(group_size, int) or isinstance(group_size, bool):
        raise ArgumentTypeError(
            f"group_size: got {group_size!r}, expected a number of ranks, or None"
        )
    if group_size < 1:
        raise InvalidArgumentError(f"group_size: got {group_size}, expected 1 or more ranks")
    if process_group is not None:
        raise InvalidArgumentError(
            f"group_size: got {group_size} and a process_group, expected one of them: group_size"
            " divides the default group"
        )
    return GroupSize(group_size)


def neighbours(size: int, rank: int, world: int) -> list[int]:
    """Return the ranks of this rank's group of this size."""
    if world % size != 0:
        is_initialized = dist.is_available() and dist.is_initialized()
        hint = "" if is_initialized else "; torch.distributed is not initialized"
        raise InvalidArgumentError(
            f"group_size: got {size}, expected a divisor of the world size, {world}{hint}"
        )
    first = rank - rank % size
    return list(range(first, first + size))


def ranks_of_node(rank: int, world: int) -> list[int]:
    """Return the ranks of this machine: those that report the same host.

    Every rank writes its report to the default group's store. If torchrun started the processes,
    each reads only those of the ranks that torchrun started on its machine, which must agree.
    """
    store = dist.distributed_c10d._get_default_store()  # noqa: SLF001
    block = _block_of_torchrun(rank, world)
    started = f"ranks {block[0]}-{block[-1]}" if block else "unknown ranks"
    store.set(f"syncnorm/host of {rank}", f"{_host()}, {started}")
    asked = block or range(world)
    answers = store.multi_get([f"syncnorm/host of {each}" for each in asked])
    reports = {each: answer.decode() for each, answer in zip(asked, answers, strict=True)}
    ranks = [each for each in asked if reports[each] == reports[rank]]
    if block and ranks != block:
        lines = "".join(f"\n  rank {each}: {report}" for each, report in reports.items())
        raise InvalidArgumentError(
            f"process_group: got 'node', and RANK, LOCAL_RANK and LOCAL_WORLD_SIZE name the"
            f" {started} as those of this machine, which report different machines or ranks;"
            f" expected the environment that torchrun sets, or no LOCAL_WORLD_SIZE:{lines}"
        )
    return ranks


def _block_of_torchrun(rank: int, world: int) -> list[int]:
    """Return the ranks that torchrun started on this machine; [] if it did not start them."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name, "") for name in names]
    if not all(value.isdecimal() for value in values):
        return []
    env_rank, env_world, local_rank, local_size = map(int, values)
    first = rank - local_rank
    fits = first >= 0 and local_rank < local_size and first + local_size <= world
    # A process may have initialized torch.distributed with other ranks than torchrun's.
    if (env_rank, env_world) != (rank, world) or not fits:
        return []
    return list(range(first, first + local_size))


def _host() -> str:
    """Return what identifies this machine: its name, and the id of its boot where Linux has one."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"host {socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"
