"""The layer in float64 on the CPU, by torch's own operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Exact:
    y: Tensor
    dx: Tensor
    dresidual: Tensor | None
    dweight: Tensor
    dbias: Tensor
    mean: Tensor
    var: Tensor
    invstd: Tensor


def exact_layer(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Exact:
    def leaf(t: Tensor) -> Tensor:
        return t.detach().double().cpu().requires_grad_()

    x, weight, bias = leaf(x), leaf(weight), leaf(bias)
    leaves = [x, weight, bias]
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = (1, -1, *[1] * (x.dim() - 2))
    var, mean = torch.var_mean(x, axes, correction=0)
    invstd = torch.rsqrt(var + eps)
    y = (x - mean.view(shape)) * (invstd * weight).view(shape) + bias.view(shape)
    if residual is not None:
        residual = leaf(residual)
        leaves.append(residual)
        y = y + residual
    if relu:
        y = y.relu()
    gradients = torch.autograd.grad(y, leaves, dy.detach().double().cpu())
    dresidual = gradients[3] if residual is not None else None
    statistics = (mean.detach(), var.detach(), invstd.detach())
    return Exact(y.detach(), gradients[0], dresidual, gradients[1], gradients[2], *statistics)
