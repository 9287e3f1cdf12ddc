"""How wires travel on the CPU: in frames of one length, whatever the wires' lengths are.

gloo ends the process that is sent more than it expects. So ranks in calls with different numbers of
channels must not send as much as they have, or they could not tell each other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

# That of forward with 1024 channels; a longer wire takes two sums. The last two values are for the
# mark of a long wire's length and its square.
FRAME = 2 * 1024 + 4 + 2
# A prime: the marks of lengths that ranks may have by mistake differ.
_MARKS = 65521


def divided(wire: Tensor) -> tuple[Tensor, Tensor | None]:
    """The frame to be summed first, and the rest of a wire that does not fit. Both are new."""
    length = wire.numel()
    if length <= FRAME - 2:
        return pad(wire, (0, FRAME - length)), None
    mark = 1 + length % _MARKS
    marks = torch.tensor((mark, mark * mark), dtype=wire.dtype)
    return torch.cat((wire[: FRAME - 2], marks)), wire[FRAME - 2 :].clone()


def joined(head: Tensor, rest: Tensor | None, length: int) -> Tensor:
    """The total, of this length, from those of frame and rest."""
    return head[:length] if rest is None else torch.cat((head[: FRAME - 2], rest))


def same_length(head: Tensor, group_size: int) -> bool:
    """Whether all ranks have a rest of the same length, by the total of their frames."""
    marks, squares = head[-2:].tolist()
    agree: bool = group_size * squares == marks * marks
    return agree
