"""Who sums the wires: a torch.distributed group or a syncnorm communicator."""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from syncnorm import Communicator, DesyncError

from . import bridge
from .frames import divided, joined, same_length
from .hang_help.calls import Record
from .hang_help.watch import watch

_SHORTEST, _LONGEST = 0.001, 1e7  # seconds that backends can count

_records: WeakKeyDictionary[Any, Record] = WeakKeyDictionary()
# torch may keep a group to the very end, after the core's objects in its record are expected to go.
atexit.register(_records.clear)


def check_timeout(timeout: float | None) -> None:
    """Raise ValueError for a timeout that backends cannot count."""
    if timeout is not None and not _SHORTEST <= timeout <= _LONGEST:
        raise ValueError(
            f"timeout: got {timeout}, expected seconds from {_SHORTEST} to {_LONGEST:g}, or None"
            " for that of the group"
        )


@dataclass(frozen=True, slots=True)
class TorchGroup:
    """A torch.distributed group of more than one rank, as one layer uses it.

    name: of the layer, or None. timeout: how many seconds a sum may take; None: as long as the
    group's own timeout says. Raises ValueError for a timeout that backends cannot count.
    """

    process_group: Any
    size: int
    name: str | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        check_timeout(self.timeout)

    def next_tag(self) -> int:
        """The tag of the next forward pass in this group, and of its backward pass.

        It counts this rank's forward passes, so that ranks in different calls notice it.
        """
        return next(record_of(self.process_group).tags)

    def sum_each(self, wires: list[Tensor]) -> list[Tensor]:
        """Each wire summed over the group, in a tensor of its own. Every rank calls it.

        Raises RuntimeError where the group's backend does, and on the CPU DesyncError for wires of
        different lengths.
        """
        record = record_of(self.process_group)
        totals = []
        for wire in wires:
            record.sums += 1
            record.in_sum = True
            totals.append(self._sum_on_device(wire) if wire.is_cuda else self._sum_framed(wire))
            record.in_sum = False
        return totals

    def _sum_on_device(self, wire: Tensor) -> Tensor:
        total = wire.clone()
        self._add_up(total)
        return total

    def _sum_framed(self, wire: Tensor) -> Tensor:
        head, rest = divided(wire)
        self._add_up(head)
        if rest is not None:
            # For wires that fit the core looks for another call in the total.
            if not same_length(head, self.size):
                raise DesyncError(
                    f"the {self.size} ranks of the group are not in the same call: they differ in"
                    " the number of channels or in the operation"
                )
            self._add_up(rest)
        return joined(head, rest, wire.numel())

    def _add_up(self, total: Tensor) -> None:
        # Not dist.all_reduce, which takes no timeout and a third more time.
        work = self.process_group.allreduce([total], _how_to_add_up(self.timeout))
        if work is not None:  # as in dist.all_reduce: on a device there may be nothing to wait for
            work.wait()

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
    """A syncnorm communicator of more than one rank, as the layer of this name uses it."""

    communicator: Communicator
    name: str | None = None

    @property
    def size(self) -> int:
        return self.communicator.size

    def sum_each(self, wires: list[Tensor]) -> list[Tensor]:
        """As TorchGroup.sum_each."""
        totals = [torch.empty_like(wire) for wire in wires]
        for wire, total in zip(wires, totals, strict=True):
            stream = torch.cuda.current_stream(wire.device).cuda_stream if wire.is_cuda else 0
            bridge.sum_over(self.communicator, wire, total, stream=stream)
        return totals


Group = TorchGroup | CoreGroup | None


def record_of(process_group: Any) -> Record:
    """What this rank last did in a torch.distributed group."""
    record = _records.get(process_group)
    if record is None:
        record = _records.setdefault(process_group, Record())
        watch(process_group, record)
    return record


@lru_cache
def _how_to_add_up(timeout: float | None) -> dist.AllreduceOptions:
    options = dist.AllreduceOptions()
    options.asyncOp = False  # on a device: on the current stream
    if timeout is not None:
        options.timeout = timedelta(seconds=timeout)
    return options
