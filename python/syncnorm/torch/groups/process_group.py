"""Who performs the all-reduce of the wires: a process group, a communicator, or this process."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from threading import Event, get_ident
from time import monotonic, sleep
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from syncnorm import (
    ArgumentTypeError,
    Communicator,
    CommunicatorTimeoutError,
    DesyncError,
    InvalidArgumentError,
    Options,
    RankLostError,
)
from syncnorm.tags import UnnamedLayers, constant_tag, layer_tag
from syncnorm.torch.desync import errors, watchdog
from syncnorm.torch.desync.errors import layer_text
from syncnorm.torch.desync.records import Record, is_fake, records
from syncnorm.torch.ops.stream import is_capturing

from .frames import FRAME, from_frame, same_length, to_frame

_SHORTEST, _LONGEST = 0.001, 1e7  # seconds that backends can count
_OF_RANKS = DesyncError | CommunicatorTimeoutError | RankLostError
# Between waits of this length Python handles signals, and a daemon thread notices the exit.
_SLICE = timedelta(seconds=0.2)
_SLICES_PER_LOOK = 15  # at the store, for a loss that another rank has announced

_exit = Event()
_unnamed_layers: WeakKeyDictionary[Any, UnnamedLayers] = WeakKeyDictionary()  # of communicators


def _let_threads_notice_the_exit() -> None:
    _exit.set()
    if any(record.in_sum and record.thread != get_ident() for record in records.values()):
        sleep(1.5 * _SLICE.total_seconds())


# Before torch destroys its groups, which would end the waits of daemon threads.
atexit.register(_let_threads_notice_the_exit)


def check_timeout(timeout: float | None) -> None:
    """Raise InvalidArgumentError for a timeout that backends cannot count."""
    if timeout is None:
        return
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise ArgumentTypeError(f"timeout: got {timeout!r}, expected seconds, or None")
    if not _SHORTEST <= timeout <= _LONGEST:
        raise InvalidArgumentError(
            f"timeout: got {timeout}, expected seconds from {_SHORTEST} to {_LONGEST:g}, or None"
            " for that of the group"
        )


class Group:
    """The shards of a list in this process, each counting as a rank; of one shard: no group at all.

    The base of the other groups, too. A pass of a layer either hands `communicator` to the core, or
    calls `begin`, reduces its wires by `all_reduce`, and calls `end`. After an error it calls
    `fail`. Before `begin` it has validated its arguments and made its wires.

    Attributes:
        size: Number of ranks.
        communicator: With it the core performs the all-reduce itself, in one call for a pass.
        synchronized: Other ranks take part, also in backward passes.
    """

    __slots__ = ("communicator", "name", "size", "synchronized", "tag")

    def __init__(
        self,
        size: int,
        communicator: Communicator | None = None,
        name: str | None = None,
        number: int = 0,
    ) -> None:
        self.size = size
        self.communicator = communicator
        self.name = name
        self.tag = layer_tag(name)
        self.synchronized = communicator is not None
        if name is None and number > 0:
            unnamed = _unnamed_layers.get(communicator)
            if unnamed is None:
                unnamed = _unnamed_layers[communicator] = UnnamedLayers()
            self.tag = unnamed[number]

    def next_tag(self, x: Tensor) -> int:
        """Return the tag of the next forward pass over x, and of its backward passes.

        It is the same until `begin` is called with it.
        """
        # A communicator counts forward passes itself, except in a graph that is captured once.
        return constant_tag(self.tag) if self.synchronized and is_capturing(x) else self.tag

    def new_wire(self, x: Tensor, length: int) -> Tensor:
        """Return a float64 vector for a wire of `length` values, or longer."""
        return x.new_empty(length, dtype=torch.float64)

    def check_device(self, device: torch.device) -> None:
        """Raise InvalidArgumentError unless the group reduces tensors on the device."""

    def all_reduce(self, wires: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum of the wires over the group, once for each shard.

        Raises:
            DesyncError: The ranks are in different calls, as far as the host can see.
            RuntimeError: The backend failed.
        """
        if self.communicator is not None:
            (wire,) = wires
            total = torch.empty_like(wire)
            stream = torch.cuda.current_stream(wire.device).cuda_stream if wire.is_cuda else 0
            self.communicator.sum(wire, total, stream=stream)
            return [total]
        total = wires[0].clone()
        for wire in wires[1:]:
            total += wire.to(total.device)
        return [total.to(wire.device) for wire in wires]

    def disagreement(self, text: str) -> DesyncError:
        """Return the error for a disagreement that a device reports some calls later."""
        return DesyncError(text)

    def begin(self, phase: str, tag: int, options: Options, x: Tensor) -> None:
        """Record the begin of a pass over x."""

    def end(self) -> None:
        """Record the end of the pass."""

    def fail(self, error: BaseException, phase: str, x: Tensor) -> None:
        """Record the end of a pass that raised; raise an error that says more if there is one."""
        if self.synchronized and isinstance(error, _OF_RANKS):
            assert self.communicator is not None
            shape = tuple(x.shape)
            raise type(error)(
                f"{error}:\n  rank {self.communicator.rank}: in {phase} of"
                f" {layer_text(self.name, self.tag)}, {shape[1]} channels, input {shape}"
            ) from error


# This rank alone; also as a process_group, whatever groups exist.
ALONE: Final = Group(1)


class TorchGroup(Group):
    """A torch.distributed group of more than one rank, for one layer.

    Args:
        process_group: The group.
        size: Its number of ranks.
        name: The layer's name in error messages.
        timeout: Seconds that an all-reduce may take; None: the timeout of the group.
        number: Identifies a layer without a name.

    Raises:
        InvalidArgumentError: A timeout that backends cannot count.
    """

    __slots__ = ("process_group", "record", "timeout")

    def __init__(
        self,
        process_group: Any,
        size: int,
        name: str | None = None,
        timeout: float | None = None,
        number: int = 0,
    ) -> None:
        if timeout is not None:
            check_timeout(timeout)
        self.record = record_of(process_group)
        # A "fake" backend, of dry runs, leaves tensors as they are: this rank's part is the sum.
        self.size = 1 if self.record.is_fake else size
        self.communicator = None
        self.name = name
        self.synchronized = True
        self.process_group = process_group
        self.timeout = timeout
        self.tag = self.record.unnamed[number] if name is None else layer_tag(name)

    def next_tag(self, x: Tensor) -> int:
        if x.is_cuda and is_capturing(x):
            return constant_tag(self.tag)
        return self.tag + self.record.passes + 1

    def new_wire(self, x: Tensor, length: int) -> Tensor:
        # gloo reduces frames: a wire that is allocated as one needs no copy.
        if x.is_cuda or length > FRAME - 2:
            return super().new_wire(x, length)
        return torch.zeros(FRAME, dtype=torch.float64)

    def all_reduce(self, wires: Sequence[Tensor]) -> list[Tensor]:
        record = self.record
        totals = []
        for wire in wires:
            if not (wire.is_cuda and is_capturing(wire)):  # ranks may capture different graphs
                record.sums += 1
            record.in_sum = True
            if wire.is_cuda or wire.numel() == FRAME:
                total = wire.clone()
                self._all_reduce(total)
            else:
                total = self._all_reduce_framed(wire)
            totals.append(total)
            record.in_sum = False
        return totals

    def _all_reduce_framed(self, wire: Tensor) -> Tensor:
        head, rest = to_frame(wire)
        self._all_reduce(head)
        if rest is not None:
            # For a wire without a rest the core checks whether the ranks are in one call.
            if not same_length(head, wire.numel(), self.size):
                raise DesyncError(
                    f"the {self.size} ranks of the group are not in the same call: they differ in"
                    " the number of channels or in the operation"
                )
            self._all_reduce(rest)
        return from_frame(head, rest, wire.numel())

    def _all_reduce(self, total: Tensor) -> None:
        # Not dist.all_reduce, which takes no timeout and is a third slower.
        work = self.process_group.allreduce([total], _allreduce_options(self.timeout))
        if not total.is_cpu:
            if work is not None:  # there may be nothing to wait for
                work.wait()
            return
        slices, began = 0, monotonic()
        while True:
            try:
                work.wait(_SLICE)
            except RuntimeError:
                if _exit.is_set():
                    Event().wait()  # for ever: Python would end a thread that returns from C++ code
                slices += 1
                if work.is_completed() or monotonic() - began < slices * _SLICE.total_seconds():
                    work.wait()  # raises the error, if there is one
                    return
                if slices % _SLICES_PER_LOOK == 0:
                    errors.abort_if_lost(self.process_group)
            else:
                return

    def check_device(self, device: torch.device) -> None:
        if device in self.record.devices:
            return
        try:
            self.process_group._get_backend(device)  # noqa: SLF001 - there is no public way
        except RuntimeError as error:
            raise InvalidArgumentError(
                f"process_group: its backend '{dist.get_backend(self.process_group)}' cannot reduce"
                f" tensors on {device}, where the input is; expected a group with a backend for"
                f" that device, such as init_process_group('cpu:gloo,cuda:nccl')"
            ) from error
        self.record.devices.add(device)

    def disagreement(self, text: str) -> DesyncError:
        return errors.disagreement(self.process_group, self.record, text, self.timeout)

    def begin(self, phase: str, tag: int, options: Options, x: Tensor) -> None:
        record = self.record
        if record.lost is not None:
            errors.raise_lost(record.lost)
        record.begin(self.name, phase, tag, options, x)
        if phase == "forward" and not (x.is_cuda and is_capturing(x)):
            record.passes += 1
        if self.timeout is not None:
            watchdog.watch(self.process_group, record, self.timeout / 2)

    def end(self) -> None:
        self.record.end()

    def fail(self, error: BaseException, _phase: str, _x: Tensor) -> None:
        try:
            explained = errors.explain(self.process_group, self.record, error, self.timeout)
        finally:
            self.record.end()
        if explained is not None:
            raise explained from error


def record_of(process_group: Any) -> Record:
    """Return the record of this rank's calls in a torch.distributed group."""
    record = records.get(process_group)
    if record is None:
        record = records.setdefault(process_group, Record(is_fake(process_group)))
        if watchdog.watch_by_default():
            watchdog.watch(process_group, record)
    return record


@lru_cache
def _allreduce_options(timeout: float | None) -> dist.AllreduceOptions:
    options = dist.AllreduceOptions()
    options.asyncOp = False  # on a device: on the current stream
    if timeout is not None:
        options.timeout = timedelta(seconds=timeout)
    return options
