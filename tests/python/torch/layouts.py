"""Shapes of every rank, and tensors in the two dense layouts."""

from __future__ import annotations

from torch import Tensor

SHAPES = [(6, 5), (4, 5, 7), (3, 5, 4, 6), (2, 5, 3, 4, 2)]
LAYOUTS = ["channels_first", "channels_last"]


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_first":
        return x.contiguous()
    return x.movedim(1, -1).contiguous().movedim(-1, 1)
