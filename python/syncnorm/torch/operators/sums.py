"""The sum over a group as compilers see it, where a group is a string."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.library import custom_op

from syncnorm import Communicator
from syncnorm.torch import bridge
from syncnorm.torch.frames import divided, joined

if dist.is_available():
    from torch.distributed._functional_collectives import all_reduce

# Before the number of a communicator; a torch.distributed group is known by its group_name.
_PREFIX = "syncnorm.Communicator "

# Those that compiled code sums with, for as long as the process lives.
_communicators: list[Communicator] = []


def name_of(communicator: Communicator) -> str:
    """The string by which compiled code finds this communicator again, in this process."""
    if not any(known is communicator for known in _communicators):
        _communicators.append(communicator)
    number = next(i for i, known in enumerate(_communicators) if known is communicator)
    return f"{_PREFIX}{number}"


def summed(wire: Tensor, group: str) -> Tensor:
    """The sum of wire over a group of more than one rank, in memory of its own."""
    if group.startswith(_PREFIX):
        total: Tensor = sum_wire(wire, group)
        return total
    if wire.device.type != "cpu":
        return all_reduce(wire, "sum", group)  # type: ignore[no-any-return, arg-type]
    # As in eager mode, but that a graph cannot look at the marks of lengths before it goes on.
    head, rest = divided(wire)
    head = all_reduce(head, "sum", group)  # type: ignore[arg-type]
    if rest is not None:
        rest = all_reduce(rest, "sum", group)  # type: ignore[arg-type]
    return joined(head, rest, wire.numel())


@custom_op("syncnorm::sum", mutates_args=())
def sum_wire(wire: Tensor, group: str) -> Tensor:
    """The sum over a communicator's group, which every rank calls."""
    total = torch.empty_like(wire)
    stream = torch.cuda.current_stream(wire.device).cuda_stream if wire.is_cuda else 0
    communicator = _communicators[int(group.removeprefix(_PREFIX))]
    bridge.sum_over(communicator, wire, total, stream=stream)
    return total


@sum_wire.register_fake
def _(wire: Tensor, _: str) -> Tensor:
    return torch.empty_like(wire)


# Compilers keep such calls even if nothing reads their results, and keep their order.
sum_wire.register_effect(torch.library.EffectType.ORDERED)  # type: ignore[attr-defined]
