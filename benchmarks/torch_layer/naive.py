"""Synchronized batch normalization as one writes it in an afternoon, in differentiable operations.

The ranks average the mean and the mean of squares, as in detectron2's NaiveSyncBatchNorm; that is
right for batches of one size only. Autograd derives the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function


class _Sum(Function):
    """Over the ranks, and so is the gradient's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        local = torch.cat([input.mean(axes), input.square().mean(axes)])
        mean, square = (_Sum.apply(local) / dist.get_world_size()).chunk(2)
        var = square - mean.square()
        with torch.no_grad():
            count = dist.get_world_size() * input.numel() / input.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        shape = (1, -1, *[1] * (input.dim() - 2))
        return input * scale.view(shape) + (self.bias - mean * scale).view(shape)
