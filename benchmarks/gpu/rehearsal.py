"""Stand-ins on the CPU for torch's SyncBatchNorm kernels, which exist only for CUDA."""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = (
    "batch_norm_stats",
    "batch_norm_gather_stats_with_counts",
    "batch_norm_elemt",
    "batch_norm_backward_reduce",
    "batch_norm_backward_elemt",
)
STAND_INS = (
    "Rehearsal: torch's SyncBatchNorm kernels exist only for CUDA. The times under 'torch kernels'"
    " are those of Python stand-ins (benchmarks/gpu/rehearsal.py), not of torch's kernels."
)


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _wide(x: Tensor) -> Tensor:
    """In the type of the arithmetic."""
    return x if x.dtype == torch.float64 else x.float()


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(_wide(x), _axes(x), correction=0)
    return mean, torch.rsqrt(var + eps)


def batch_norm_gather_stats_with_counts(
    _x: Tensor,
    means: Tensor,
    invstds: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Of all ranks, from theirs: a row for each."""
    total = counts.sum()
    shares = (counts / total).unsqueeze(1)
    mean = (shares * means).sum(0)
    var = (shares * (invstds**-2 - eps + (means - mean) ** 2)).sum(0)
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    unbiased = var * total / (total - 1)
    running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return mean, torch.rsqrt(var + eps)


def batch_norm_elemt(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, _eps: float
) -> Tensor:
    scale = invstd * weight
    y = (_wide(x) - _channels(mean, x)) * _channels(scale, x) + _channels(bias, x)
    return y.to(x.dtype)


def batch_norm_backward_reduce(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    _weight: Tensor,
    _input: bool,
    _weight_too: bool,
    _bias_too: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sum_dy = _wide(dy).sum(_axes(x))
    sum_dy_xmu = (_wide(dy) * (_wide(x) - _channels(mean, x))).sum(_axes(x))
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy


def batch_norm_backward_elemt(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    count: Tensor,
) -> Tensor:
    total = count.sum()
    slope = _channels(sum_dy_xmu / total * invstd * invstd, x)
    centered = _wide(dy) - _channels(sum_dy / total, x)
    centered -= (_wide(x) - _channels(mean, x)) * slope
    return (centered * _channels(invstd * weight, x)).to(x.dtype)
