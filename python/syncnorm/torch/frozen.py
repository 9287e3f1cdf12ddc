"""Normalization with running statistics: evaluation, and training with frozen statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd import Function

from syncnorm import Options

from . import bridge, phases, second_order
from .autograd import (
    Tensors,
    keep_values,
    kept_outputs,
    refuse_leaves,
    shard_gradients,
    wants_gradient,
)
from .launch import placement
from .tensors import (
    announce_overwritten,
    contiguous,
    dense_like,
    doubles,
    output_for,
    prepared,
)


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
    refuse_leaves(options, x)
    statistics = (running_mean, running_var)
    if wants_gradient(x, weight, bias, residual):
        recorded: Tensor = _Inference.apply(  # type: ignore[no-untyped-call]
            options, x, weight, bias, residual, statistics
        )
        return recorded
    y, _ = _infer(options, x, weight, bias, residual, statistics, recorded=False)
    announce_overwritten(x, y)
    return y


def _infer(
    options: Options,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    statistics: tuple[Tensor, Tensor],
    *,
    recorded: bool,
) -> tuple[Tensor, Tensor | None]:
    """y, and saved where the call is recorded."""
    y, sizes = output_for(options, x), bridge.sizes(x, options)
    saved = doubles(sizes.saved, x) if recorded else None
    bridge.infer(
        options,
        x,
        *statistics,
        y,
        weight=weight,
        bias=bias,
        residual=None if residual is None else dense_like(residual, x),
        saved=saved,
        **placement(x, sizes.workspace),
    )
    return y, saved


class _Inference(Function):
    @staticmethod
    def forward(
        ctx: Any,
        options: Options,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        statistics: tuple[Tensor, Tensor],
    ) -> Tensor:
        y, saved = _infer(options, x, weight, bias, residual, statistics, recorded=True)
        ctx.recorded = _Recorded(options)
        kept = kept_outputs(options, y, residual)
        (values,) = keep_values(ctx, options, [x], [y])
        ctx.save_for_backward(values, weight, bias, saved, None, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensors:
        gradients = shard_gradients(ctx.recorded, ctx.needs_input_grad[1:5], dy, ctx.saved_tensors)
        return None, *gradients, None


@dataclass(slots=True)
class _Recorded:
    options: Options

    @property
    def synchronized(self) -> bool:
        return False

    def backward(self, shard: phases.Backward) -> None:
        x = shard.x
        bridge.infer_backward(
            self.options,
            x,
            shard.dy,
            shard.saved,
            **shard.beside_dy(),
            **placement(x, bridge.sizes(x, self.options).workspace),
        )

    def second_backward(
        self, shard: phases.Backward, cotangents: second_order.Cotangents, bent: Tensor | None
    ) -> second_order.Derivatives:
        # The rank's factor in saved is 0, so that nothing goes through the statistics.
        call = phases.Call(self.options, 1, tag=0)
        return second_order.backward(call, [shard], [cotangents], [bent], phases.alone)[0]
