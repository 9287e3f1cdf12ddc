"""Normalization with the statistics of the batch over a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from syncnorm import Options
from syncnorm.settings import constant_tag

from . import bridge, phases, second_order
from .anchor import ANCHOR
from .autograd import (
    Tensors,
    in_backward_pass,
    keep_values,
    kept_outputs,
    refuse_leaves,
    shard_gradients,
    wants_gradient,
)
from .group import Group, TorchGroup
from .hang_help.who_is_where import in_call
from .launch import is_capturing, placement, raise_if_ranks_disagreed
from .tensors import (
    announce_overwritten,
    announce_written,
    canonical_mask,
    contiguous,
    dense_like,
    doubles,
    output_for,
    prepared,
)

# running_mean, running_var, num_batches_tracked
Running = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(slots=True)
class _Call:
    """What a rank's call has beside the tensors that may need a gradient."""

    options: Options
    group: Group
    mask: Tensor | None
    running: Running


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
    repeats_update: bool = False,
) -> Tensor:
    """The layer in training. Running statistics are updated where they are given.

    But not inside a backward pass, unless repeats_update says so: there a forward pass is the
    repetition of an earlier one.
    """
    x, weight, bias = prepared(x, residual), contiguous(weight), contiguous(bias)
    mask = None if mask is None else canonical_mask(mask, x)
    refuse_leaves(options, x)
    if isinstance(group, TorchGroup):
        group.check_device(x.device)
    moved = (running_mean, running_var, num_batches_tracked)
    stays = in_backward_pass() and not repeats_update
    running: Running = (None, None, None) if stays else moved
    call = _Call(options, group, mask, running)
    if wants_gradient(x, weight, bias, residual):
        y: Tensor = _Training.apply(  # type: ignore[no-untyped-call]
            call, x, weight, bias, residual, None
        )
    elif group is not None and torch.is_grad_enabled():
        y = _Training.apply(  # type: ignore[no-untyped-call]
            call, x, weight, bias, residual, ANCHOR
        )
    else:
        shard = _shard(call, x, weight, bias, residual, recorded=False)
        _run_forward(options, group, shard)
        y = shard.y
        announce_overwritten(x, y)
    if running[0] is not None:
        announce_written(*running)
    return y


class _Training(Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        anchor: Tensor | None,
    ) -> Tensor:
        shard = _shard(call, x, weight, bias, residual, recorded=True)
        tag = _run_forward(call.options, call.group, shard)
        ctx.recorded = _Recorded(call.options, call.group, tag)
        kept = kept_outputs(call.options, shard.y, residual)
        (values,) = keep_values(ctx, call.options, [x], [shard.y])
        ctx.save_for_backward(values, weight, bias, shard.saved, shard.mask, *kept)
        return shard.y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensors:
        gradients = shard_gradients(ctx.recorded, ctx.needs_input_grad[1:5], dy, ctx.saved_tensors)
        return None, *gradients, None


def _shard(
    call: _Call,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    *,
    recorded: bool,
) -> phases.Forward:
    sizes = bridge.sizes(x, call.options)
    saved = doubles(sizes.saved, x) if recorded else None
    aligned = None if residual is None else dense_like(residual, x)
    return phases.Forward(
        x,
        output_for(call.options, x),
        sizes,
        saved,
        weight,
        bias,
        aligned,
        call.mask,
        *call.running,
    )


def _run_forward(options: Options, group: Group, shard: phases.Forward) -> int:
    """One rank's pass. Returns the tag by which its backward passes are known to the group."""
    x = shard.x
    raise_if_ranks_disagreed(x, group)
    capturing = is_capturing(x)
    if isinstance(group, TorchGroup):
        tag = constant_tag(group.name) if capturing else group.next_tag()
        with in_call(group, "forward", tag, options, x):
            phases.forward(phases.Call(options, group.size, tag), [shard], group.sum_each)
        return tag
    # A communicator counts its calls itself where it can.
    tag = constant_tag(group.name) if group is not None and capturing else 0
    with in_call(group, "forward", tag, options, x):
        bridge.forward(
            options,
            None if group is None else group.communicator,
            x,
            shard.y,
            mask=shard.mask,
            tag=tag,
            **shard.beside_y(),
            **placement(x, shard.sizes.workspace),
        )
    return tag


@dataclass(slots=True)
class _Recorded:
    """What a rank's backward passes have in common with its forward pass."""

    options: Options
    group: Group
    tag: int

    @property
    def synchronized(self) -> bool:
        return self.group is not None

    def backward(self, shard: phases.Backward) -> None:
        options, group, tag, x = self.options, self.group, self.tag, shard.x
        raise_if_ranks_disagreed(x, group)
        if isinstance(group, TorchGroup):
            with in_call(group, "backward", tag, options, x):
                phases.backward(phases.Call(options, group.size, tag), [shard], group.sum_each)
            return
        with in_call(group, "backward", tag, options, x):
            bridge.backward(
                options,
                None if group is None else group.communicator,
                x,
                shard.dy,
                shard.saved,
                mask=shard.mask,
                tag=tag,
                **shard.beside_dy(),
                **placement(x, bridge.sizes(x, options).workspace),
            )

    def second_backward(
        self, shard: phases.Backward, cotangents: second_order.Cotangents, bent: Tensor | None
    ) -> second_order.Derivatives:
        options, group, tag, x = self.options, self.group, self.tag, shard.x
        raise_if_ranks_disagreed(x, group)
        if group is None:
            call, sum_wires = phases.Call(options, 1, tag), phases.alone
        else:
            call, sum_wires = phases.Call(options, group.size, tag), group.sum_each
        with in_call(group, "second backward", tag, options, x):
            return second_order.backward(call, [shard], [cotangents], [bent], sum_wires)[0]
