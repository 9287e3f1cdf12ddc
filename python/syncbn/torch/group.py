"""Who sums the wires: a torch.distributed group or a syncbn communicator."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from syncbn import Communicator

# How many synchronized forward passes this process has begun in each group. The count is the tag of
# the call, so that ranks that are in different calls notice it.
_calls: WeakKeyDictionary[Any, Iterator[int]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class TorchGroup:
    """A torch.distributed group of more than one rank, as one layer uses it.

    name: of the layer, or None. timeout: how many seconds a sum may take; None: as long as the
    group's own timeout says.
    """

    process_group: Any
    size: int
    name: str | None = None
    timeout: float | None = None

    def next_tag(self) -> int:
        """The tag of the next forward pass in this group, and of its backward pass."""
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


@dataclass(frozen=True, slots=True)
class CoreGroup:
    """A syncbn communicator of more than one rank, as the layer of this name uses it."""

    communicator: Communicator
    name: str | None = None


Group = TorchGroup | CoreGroup | None


def constant_tag(name: str | None) -> int:
    """The tag of a layer's calls where they cannot be counted: in CUDA graphs, when compiling."""
    return 1 if name is None else (1 << 32) | zlib.crc32(name.encode())
