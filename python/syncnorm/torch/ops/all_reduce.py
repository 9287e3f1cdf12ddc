"""The all-reduce as compilers see it, where a group is a string."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.library import custom_op

from syncnorm import Communicator
from syncnorm.torch.groups.frames import from_frame, to_frame

if dist.is_available():
    from torch.distributed._functional_collectives import all_reduce as _functional_all_reduce

# Precedes the number of a communicator; a torch.distributed group is known by its group_name.
_PREFIX = "syncnorm.Communicator "

# The communicators of compiled code, which live as long as the process.
_communicators: list[Communicator] = []


def group_name(communicator: Communicator) -> str:
    """Return the string that identifies this communicator in compiled code of this process."""
    for number, known in enumerate(_communicators):
        if known is communicator:
            return f"{_PREFIX}{number}"
    _communicators.append(communicator)
    return f"{_PREFIX}{len(_communicators) - 1}"


def all_reduce(wire: Tensor, group: str) -> Tensor:
    """Return the sum of the wire over a group of more than one rank, in new memory."""
    if group.startswith(_PREFIX):
        return all_reduce_over_communicator(wire, group)  # type: ignore[no-any-return]
    reduce: Callable[..., Tensor] = _functional_all_reduce
    if wire.device.type != "cpu":
        return reduce(wire, "sum", group)
    # As in eager mode, except that a graph cannot compare the lengths before it continues.
    head, rest = to_frame(wire)
    head = reduce(head, "sum", group)
    rest = None if rest is None else reduce(rest, "sum", group)
    return from_frame(head, rest, wire.numel())


@custom_op("syncnorm::all_reduce", mutates_args=())
def all_reduce_over_communicator(wire: Tensor, group: str) -> Tensor:
    """Return the sum over a communicator; collective."""
    total = torch.empty_like(wire)
    stream = torch.cuda.current_stream(wire.device).cuda_stream if wire.is_cuda else 0
    _communicators[int(group.removeprefix(_PREFIX))].sum(wire, total, stream=stream)
    return total


@all_reduce_over_communicator.register_fake
def _(wire: Tensor, _: str) -> Tensor:
    return torch.empty_like(wire)


# Compilers keep calls with an effect, in their order, even if nothing reads the results.
all_reduce_over_communicator.register_effect(
    torch.library.EffectType.ORDERED  # type: ignore[attr-defined]
)
