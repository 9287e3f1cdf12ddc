"""Frames of one length, in which wires of any length travel over the CPU's collectives.

gloo aborts a process that receives more than it expects. Ranks in calls with different numbers of
channels must therefore send equally much, or no error could say that they disagree.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Holds the wires of up to 1024 channels; a longer wire takes two all-reduces. The last two values
# hold the length of a longer wire and its square. No wire of a pass has exactly this length.
FRAME = 2 * 1024 + 4 + 3


def to_frame(wire: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return new tensors: the frame to be reduced first, and the rest of a wire that is longer."""
    length = wire.numel()
    if length <= FRAME - 2:
        return torch.constant_pad_nd(wire, (0, FRAME - length)), None
    lengths = torch.tensor((length, length * length), dtype=wire.dtype)
    return torch.cat((wire[: FRAME - 2], lengths)), wire[FRAME - 2 :].clone()


def from_frame(head: Tensor, rest: Tensor | None, length: int) -> Tensor:
    """Return the total of this length, from those of frame and rest."""
    return head[:length] if rest is None else torch.cat((head[: FRAME - 2], rest))


def same_length(head: Tensor, length: int, group_size: int) -> bool:
    """Return whether the frames of all ranks announced a wire of `length` values.

    Among values with the same mean, equal ones alone have the smallest sum of squares. The sums are
    exact in float64 as long as group_size * length**2 < 2**53.
    """
    announced, squares = head[-2:].tolist()
    agree: bool = announced == group_size * length and squares == group_size * length * length
    return agree
