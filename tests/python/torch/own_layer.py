"""A layer over a sum of one's own, as docs/pytorch.md shows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from syncnorm.torch import functional as phases

SETTINGS = phases.Settings(eps=1e-5, momentum=0.1)


class Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, ranks: Any) -> Tensor:
        wire, _ = phases.moments(x, SETTINGS)
        total, affine = ranks.sum(wire), {"weight": weight, "bias": bias}
        y, saved = phases.normalize(x, wire, total, ranks.size, SETTINGS, **affine)
        ctx.save_for_backward(x, weight, bias, saved)
        ctx.ranks = ranks
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, saved = ctx.saved_tensors
        affine = {"weight": weight, "bias": bias}
        wire = phases.grad_moments(x, dy, saved, SETTINGS, **affine)
        total, size = ctx.ranks.sum(wire), ctx.ranks.size
        gradients = phases.grad_input(x, dy, saved, wire, total, size, SETTINGS, **affine)
        return gradients.x, gradients.weight, gradients.bias, None
