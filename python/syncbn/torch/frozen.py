"""Normalization with running statistics: evaluation, and training with frozen statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from syncbn import Options

from . import bridge, phases
from .autograd import (
    allocate_gradients,
    backward_reads_output,
    first_order,
    gradients_of,
    wants_gradient,
)
from .launch import placement
from .tensors import contiguous, dense_like, doubles, prepared


def normalize(
    options: Options,
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """The layer in evaluation. No rank talks to another."""
    x, weight, bias = prepared(x, residual), contiguous(weight), contiguous(bias)
    if wants_gradient(x, weight, bias, residual):
        y: Tensor = _Inference.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, residual, running_mean, running_var, options
        )
        return y
    return _infer(options, x, running_mean, running_var, weight, bias, residual, None)


def _infer(
    options: Options,
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    saved: Tensor | None,
) -> Tensor:
    y = torch.empty_like(x)
    bridge.infer(
        options,
        x,
        running_mean,
        running_var,
        y,
        weight=weight,
        bias=bias,
        residual=None if residual is None else dense_like(residual, x),
        saved=saved,
        **placement(x, bridge.sizes(x, options).workspace),
    )
    return y


class _Inference(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        options: Options,
    ) -> Tensor:
        saved = doubles(bridge.sizes(x, options).saved, x)
        y = _infer(options, x, running_mean, running_var, weight, bias, residual, saved)
        ctx.options = options
        kept = y if backward_reads_output(options, residual) else None
        ctx.save_for_backward(x, weight, bias, saved, kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        def gradients(
            dy: Tensor,
            x: Tensor,
            weight: Tensor | None,
            bias: Tensor | None,
            saved: Tensor,
            y: Tensor | None,
        ) -> tuple[Tensor | None, ...]:
            shard = phases.Backward(x, dense_like(dy, x), saved, weight, bias, None, y)
            allocate_gradients(ctx.options, shard, ctx.needs_input_grad)
            _run_backward(ctx.options, shard)
            return gradients_of(shard, ctx.needs_input_grad)

        return *first_order(gradients, dy, *ctx.saved_tensors), None, None, None


def _run_backward(options: Options, shard: phases.Backward) -> None:
    x = shard.x
    bridge.infer_backward(
        options,
        x,
        shard.dy,
        shard.saved,
        dx=shard.dx,
        dresidual=shard.dresidual,
        dweight=shard.dweight,
        dbias=shard.dbias,
        weight=shard.weight,
        bias=shard.bias,
        y=shard.y,
        **placement(x, bridge.sizes(x, options).workspace),
    )
