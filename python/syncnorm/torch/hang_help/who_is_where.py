"""Errors of a call over a group, which say where every rank was."""

from __future__ import annotations

import time
from types import TracebackType

import torch.distributed as dist
from torch import Tensor

from syncnorm import CommunicatorTimeoutError, DesyncError, Error, Options
from syncnorm.torch.group import Group, TorchGroup, record_of

from .account import account, layer_text
from .calls import Record
from .positions import FAILED, GAVE_UP, NOTICED, Position, position_of
from .told import ask
from .watch import less_patience

_ALIKE = (
    "Every rank must make the same calls in the same order, with the same channels and options."
)
_LOST = "The group cannot be used any more."


class in_call:  # noqa: N801 - used as the functions of contextlib are
    """A context manager around one pass of a layer, which is recorded.

    Where ranks disagree (DesyncError), do not come in time (CommunicatorTimeoutError), or the
    group's backend fails (DesyncError), the error that leaves it says where each of them was.
    """

    __slots__ = ("_group", "_options", "_phase", "_record", "_tag", "_x")

    def __init__(self, group: Group, phase: str, tag: int, options: Options, x: Tensor) -> None:
        self._group, self._phase, self._tag, self._options = group, phase, tag, options
        self._x = x

    def __enter__(self) -> None:
        group = self._group
        if isinstance(group, TorchGroup):
            self._record = record = record_of(group.process_group)
            if record.lost is not None:
                kind, text = record.lost
                raise kind(f"{_LOST} An earlier call failed: {text}")
            record.begin(group.name, self._phase, self._tag, self._options, self._x)
            if group.timeout is not None:
                less_patience(record, group.timeout / 2)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        group = self._group
        if isinstance(group, TorchGroup):
            explained = None if error is None else _explained(group, self._record, error)
            self._record.end()
            if explained is not None:
                raise explained from error
        elif isinstance(error, (DesyncError, CommunicatorTimeoutError)) and group is not None:
            shape = tuple(self._x.shape)
            raise type(error)(
                f"{error}:\n  rank {group.communicator.rank}: in {self._phase} of"
                f" {layer_text(group.name)}, {shape[1]} channels, input {shape}"
            ) from error


def disagreement(group: Group, text: str) -> DesyncError:
    """The error for ranks that disagreed some calls ago, as a device told."""
    if not isinstance(group, TorchGroup):
        return DesyncError(text)
    record = record_of(group.process_group)
    record.reports += 1
    mine = position_of(record, NOTICED, record.reports)
    _, where = _where(group, mine, "reports")
    return DesyncError(f"{text}:\n{where}")


def _explained(group: TorchGroup, record: Record, error: BaseException) -> Error | None:
    """What to raise in place of error; None for an error that has nothing to do with the group."""
    if isinstance(error, DesyncError):
        _, where = _where(group, position_of(record, FAILED))
        return DesyncError(f"{error}:\n{where}")
    if not (record.in_sum and isinstance(error, RuntimeError)):
        return None
    lost = _lost(group, record, error)
    record.lost = type(lost), str(lost)
    return lost


def _lost(group: TorchGroup, record: Record, error: RuntimeError) -> Error:
    """The error for a sum that the group's backend could not finish."""
    # Backends have no class of errors for this. The words are those of gloo, NCCL and torch.
    gave_up = "timed out" in str(error).lower()
    mine = position_of(record, GAVE_UP if gave_up else FAILED)
    told, where = _where(group, mine)
    reason = str(error).partition(". ")[0]
    text = f"a sum over the group failed ({reason}):\n{where}\n{_LOST} {_ALIKE}"
    if any(position.state == GAVE_UP for position in told.values()):
        return CommunicatorTimeoutError(f"{text} If a rank is only slow, give a longer timeout.")
    return DesyncError(text)


def _where(
    group: TorchGroup, mine: Position, topic: str = "where"
) -> tuple[dict[int, Position], str]:
    """What the ranks told, by their rank in the whole world, and the lines that say it."""
    process_group = group.process_group
    try:
        world = dist.get_process_group_ranks(process_group)
    except KeyError:  # a group that torch.distributed did not make
        world = list(range(group.size))
    note = ""
    try:
        heard = ask(process_group, mine, topic)
    except RuntimeError as error:
        heard = {process_group.rank(): mine}
        note = f"\n  (the store of the group could not be reached: {error})"
    told = {world[rank]: position for rank, position in heard.items()}
    return told, account(told, world, time.time()) + note
