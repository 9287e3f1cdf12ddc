"""Normalization with the statistics of the batch over a group."""

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
from .group import Group, TorchGroup, constant_tag
from .launch import is_capturing, placement, raise_if_ranks_disagreed
from .tensors import (
    announce_written,
    canonical_mask,
    contiguous,
    dense_like,
    doubles,
    prepared,
)

# running_mean, running_var, num_batches_tracked
Running = tuple[Tensor | None, Tensor | None, Tensor | None]


def normalize(
    options: Options,
    group: Group,
    x: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
) -> Tensor:
    """The layer in training. Running statistics are updated where they are given."""
    x, weight, bias = prepared(x, residual), contiguous(weight), contiguous(bias)
    mask = None if mask is None else canonical_mask(mask, x)
    if isinstance(group, TorchGroup):
        group.check_device(x.device)
    running: Running = (running_mean, running_var, num_batches_tracked)
    recorded = wants_gradient(x, weight, bias, residual)
    anchor = None
    if group is not None and torch.is_grad_enabled() and not recorded:
        # Another rank may need a gradient, and then every rank must join its backward pass.
        anchor = torch.empty(0, device=x.device, requires_grad=True)
    if recorded or anchor is not None:
        y: Tensor = _Training.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, residual, anchor, mask, running, options, group
        )
    else:
        shard = _shard(x, None, weight, bias, residual, mask, running)
        _run_forward(options, group, shard)
        y = shard.y
    if running_mean is not None:
        announce_written(*running)
    return y


class _Training(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        anchor: Tensor | None,
        mask: Tensor | None,
        running: Running,
        options: Options,
        group: Group,
    ) -> Tensor:
        saved = doubles(bridge.sizes(x, options).saved, x)
        shard = _shard(x, saved, weight, bias, residual, mask, running)
        ctx.tag = _run_forward(options, group, shard)
        ctx.options, ctx.group = options, group
        kept = shard.y if backward_reads_output(options, residual) else None
        ctx.save_for_backward(x, weight, bias, saved, mask, kept)
        return shard.y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        def gradients(
            dy: Tensor,
            x: Tensor,
            weight: Tensor | None,
            bias: Tensor | None,
            saved: Tensor,
            mask: Tensor | None,
            y: Tensor | None,
        ) -> tuple[Tensor | None, ...]:
            shard = phases.Backward(x, dense_like(dy, x), saved, weight, bias, mask, y)
            allocate_gradients(ctx.options, shard, ctx.needs_input_grad)
            _run_backward(ctx.options, ctx.group, shard, ctx.tag)
            return gradients_of(shard, ctx.needs_input_grad)

        return *first_order(gradients, dy, *ctx.saved_tensors), None, None, None, None, None


def _shard(
    x: Tensor,
    saved: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    running: Running,
) -> phases.Forward:
    y = torch.empty_like(x)
    aligned = None if residual is None else dense_like(residual, x)
    return phases.Forward(x, y, saved, weight, bias, aligned, mask, *running)


def _run_forward(options: Options, group: Group, shard: phases.Forward) -> int:
    """One rank's pass. Returns the tag by which its backward pass is known to the group."""
    x = shard.x
    raise_if_ranks_disagreed(x)
    capturing = is_capturing(x)
    if isinstance(group, TorchGroup):
        tag = constant_tag(group.name) if capturing else group.next_tag()
        phases.forward(phases.Call(options, group.size, tag), [shard], group.sum_each)
        return tag
    # A communicator counts its calls itself where it can.
    tag = constant_tag(group.name) if group is not None and capturing else 0
    bridge.forward(
        options,
        None if group is None else group.communicator,
        x,
        shard.y,
        saved=shard.saved,
        mask=shard.mask,
        residual=shard.residual,
        weight=shard.weight,
        bias=shard.bias,
        running_mean=shard.running_mean,
        running_var=shard.running_var,
        num_batches_tracked=shard.num_batches_tracked,
        tag=tag,
        **placement(x, bridge.sizes(x, options).workspace),
    )
    return tag


def _run_backward(options: Options, group: Group, shard: phases.Backward, tag: int) -> None:
    x = shard.x
    raise_if_ranks_disagreed(x)
    if isinstance(group, TorchGroup):
        phases.backward(phases.Call(options, group.size, tag), [shard], group.sum_each)
        return
    bridge.backward(
        options,
        None if group is None else group.communicator,
        x,
        shard.dy,
        shard.saved,
        dx=shard.dx,
        dresidual=shard.dresidual,
        dweight=shard.dweight,
        dbias=shard.dbias,
        weight=shard.weight,
        bias=shard.bias,
        mask=shard.mask,
        y=shard.y,
        tag=tag,
        **placement(x, bridge.sizes(x, options).workspace),
    )
