"""Define the baselines: a naive synchronized layer, and torch's batch norm without synchronization.

Both accept inputs of 2 dimensions and more.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import batch_norm


class _AllReduce(Function):
    """Sums x over the ranks in forward, and its gradient in backward."""

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
    """Synchronized batch norm in differentiable operations; autograd derives the backward pass.

    The ranks average the mean and the mean of squares, as detectron2's NaiveSyncBatchNorm does.
    This is correct only if all ranks have the same batch size.
    """

    def forward(self, input: Tensor) -> Tensor:
        axes = [axis for axis in range(input.dim()) if axis != 1]
        local = torch.cat([input.mean(axes), input.square().mean(axes)])
        mean, square = (_AllReduce.apply(local) / dist.get_world_size()).chunk(2)
        var = square - mean.square()
        with torch.no_grad():
            count = dist.get_world_size() * input.numel() / input.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        shape = (1, -1, *[1] * (input.dim() - 2))
        return input * scale.view(shape) + (self.bias - mean * scale).view(shape)


class LocalBatchNorm(nn.BatchNorm2d):
    """torch's `F.batch_norm` on this rank alone."""

    def forward(self, input: Tensor) -> Tensor:
        return batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )
