"""The autograd Function of batch normalization, for one shard or many.

A rank of a process group holds one shard of the batch; a list of tensors is several shards in one
process. In training each pass sums over its shards, all-reduces the sums over the group, and writes
the values; with running statistics it only writes the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from syncnorm.settings import core_options
from syncnorm.torch.call import Call
from syncnorm.torch.groups.process_group import Group
from syncnorm.torch.ops import kernels
from syncnorm.torch.ops.kernels import NO_STATISTICS
from syncnorm.torch.ops.layout import bump_versions, on_device_of
from syncnorm.torch.ops.stream import take_disagreement

from .autograd import (
    GRAD_DUMMY,
    Optional,
    Pass,
    Shard,
    Tensors,
    in_backward_pass,
    refuse_batched,
    refuse_overwriting,
    save,
    shards_of,
    wants_gradient,
)
from .double_backward import differentiable


def batch_norm(
    xs: Sequence[Tensor],
    residuals: Sequence[Optional],
    masks: Sequence[Optional],
    call: Call,
    group: Group,
) -> Sequence[Tensor]:
    """Normalize the shards that this process holds.

    Args:
        xs, residuals, masks: One item per shard, in the layouts of ops/layout.py.
        call: Everything else; its residual, mask and group are not used.
        group: Performs the all-reduce; of one rank if call.training is False.
    """
    options = core_options(call.settings)
    (weight, bias), running, recording = call.affine, call.running, torch.is_grad_enabled()
    if weight is not None and not weight.is_contiguous():
        weight = weight.contiguous()
    if bias is not None and not bias.is_contiguous():
        bias = bias.contiguous()
    if options.in_place:
        refuse_overwriting(xs)
    group.check_device(xs[0].device)
    # A forward pass inside a backward pass repeats an earlier one (activation checkpointing).
    if call.training and not call.update_in_backward and in_backward_pass():
        running = NO_STATISTICS
    this: Pass = (options, group, not call.training, running, masks)
    wanted = recording and (xs[0].requires_grad or wants_gradient(weight, bias, *xs, *residuals))
    if wanted or (recording and group.synchronized):
        dummy = None if wanted else GRAD_DUMMY
        ys: Sequence[Tensor] = _apply(this, *xs, weight, bias, *residuals, dummy)
    else:
        ys, _, _ = _forward(this, weight, bias, xs, residuals, keep=False)
        if options.in_place and not xs[0].is_inference():
            bump_versions(*xs)
    if call.training and running[0] is not None:
        bump_versions(*running)
    return ys


class BatchNorm(Function):
    """Inputs: the Pass, xs, weight, bias, residuals, GRAD_DUMMY or None. Outputs: ys.

    xs come first: for an in-place write to a view autograd takes the gradient of the first tensor.
    """

    @staticmethod
    def forward(ctx: Any, this: Pass, *tensors: Any) -> tuple[Tensor, ...]:
        count = len(this[4])
        xs, residuals = tensors[:count], tensors[count + 2 : -1]
        weight, bias = tensors[count : count + 2]
        ys, saved, ctx.tag = _forward(this, weight, bias, xs, residuals, keep=True)
        ctx.this = this
        save(ctx, this, weight, bias, xs, ys, residuals, saved)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Tensors:
        refuse_batched(*dys)
        this, tag, needed, count = ctx.this, ctx.tag, ctx.needs_input_grad, len(dys)
        of_affine = needed[1 + count : 3 + count]
        wanted = (*of_affine, *needed[1 : 1 + count], *needed[3 + count : -1])
        tensors = (*dys, *ctx.saved_tensors)
        if torch.is_grad_enabled():  # create_graph=True
            first = partial(_backward, this, tag, wanted)
            dweight, dbias, *others = differentiable(first, this, tag, *tensors)
        else:
            dweight, dbias, *others = _backward(this, tag, wanted, *tensors)
        return None, *others[:count], dweight, dbias, *others[count:], None


# Function.apply without its preparation for torch.func, which `refuse_transforms` has excluded: a
# third of its time.
_apply: Any = super(Function, BatchNorm).apply


def _forward(
    this: Pass,
    weight: Optional,
    bias: Optional,
    xs: Sequence[Tensor],
    residuals: Sequence[Optional],
    *,
    keep: bool,
) -> tuple[Sequence[Tensor], Sequence[Optional], int]:
    """Return y of each shard, what each saves for backward if `keep`, and the tag of the call."""
    options, group, frozen, running, masks = this
    x, communicator = xs[0], group.communicator
    if group.size == 1 and not group.synchronized:
        y = x if options.in_place else torch.empty_like(x)
        if frozen:
            saved = kernels.infer(options, x, running, weight, bias, residuals[0], y, keep)
        else:
            given = (weight, bias, residuals[0], masks[0], 0, running, y, keep)
            saved = kernels.forward(options, x, None, *given)
        return (y,), (saved,), 0
    if x.is_cuda:
        _raise_disagreement(x, group)
    tag = group.next_tag(x)
    group.begin("forward", tag, options, x)
    try:
        if communicator is None:
            ys, kept = _forward_phases(this, tag, weight, bias, xs, residuals, keep)
        else:
            ys = [x if options.in_place else torch.empty_like(x)]
            given = (weight, bias, residuals[0], masks[0], tag, running, ys[0], keep)
            kept = [kernels.forward(options, x, communicator, *given)]
    except BaseException as error:
        group.fail(error, "forward", x)
        raise
    group.end()
    return ys, kept, tag


def _forward_phases(
    this: Pass,
    tag: int,
    weight: Optional,
    bias: Optional,
    xs: Sequence[Tensor],
    residuals: Sequence[Optional],
    keep: bool,
) -> tuple[list[Tensor], list[Optional]]:
    options, group, _, running, masks = this
    size, new_wire = group.size, group.new_wire
    wires, local_vars, ys, saved = [], [], [], []
    for x, mask in zip(xs, masks, strict=True):
        wire, local_var = kernels.moments(options, x, mask, tag, new_wire)
        wires.append(wire)
        local_vars.append(local_var)
    totals = group.all_reduce(wires)
    centers: Sequence[Optional] = [None] * len(xs)
    if local_vars[0] is not None:
        centers = group.all_reduce(
            [
                kernels.center(options, x, wire, total, local_var, size, tag, new_wire)
                for x, wire, total, local_var in zip(xs, wires, totals, local_vars, strict=True)
                if local_var is not None
            ]
        )
    for index, x in enumerate(xs):
        if index > 0:  # the first shard has updated the running statistics
            weight, bias = on_device_of(x, weight, bias)
            running = NO_STATISTICS
        y = x if options.in_place else torch.empty_like(x)
        given = (centers[index], weight, bias, residuals[index])
        sums = (wires[index], totals[index])
        saved.append(kernels.normalize(options, x, *sums, *given, size, tag, running, y, keep))
        ys.append(y)
    return ys, saved


def _backward(this: Pass, tag: int, wanted: Sequence[bool], *tensors: Any) -> Tensors:
    """Return the gradients of weight, bias, xs and residuals that are wanted."""
    options, group, frozen, _, _ = this
    shards = shards_of(this, tensors)
    x, dy, saved, weight, bias, y, mask, _ = shards[0]
    if group.communicator is None and (group.size > 1 or group.synchronized):
        return _backward_phases(this, tag, wanted, shards)
    of_weight, of_bias, of_x, of_residual = wanted
    given = (options, x, (of_x, of_weight, of_bias, of_residual), weight, bias, dy, saved)
    if frozen:
        gradients = kernels.infer_backward(*given, y)
    elif group.size == 1:
        gradients = kernels.backward(*given, None, mask, y, tag)
    else:
        if x.is_cuda:
            _raise_disagreement(x, group)
        group.begin("backward", tag, options, x)
        try:
            gradients = kernels.backward(*given, group.communicator, mask, y, tag)
        except BaseException as error:
            group.fail(error, "backward", x)
            raise
        group.end()
    dx, dweight, dbias, dresidual = gradients
    # Without an activation the residual's gradient is dy.
    return dweight, dbias, dx, dy if of_residual and dresidual is None else dresidual


def _backward_phases(
    this: Pass, tag: int, wanted: Sequence[bool], shards: Sequence[Shard]
) -> Tensors:
    options, group, *_ = this
    first = shards[0][0]
    if first.is_cuda:
        _raise_disagreement(first, group)
    group.begin("backward", tag, options, first)
    try:
        wires = []
        for x, dy, saved, weight, bias, y, _, _ in shards:
            given = (dy, saved, weight, bias, y, tag, group.new_wire)
            wires.append(kernels.grad_moments(options, x, *given))
        totals = group.all_reduce(wires)
        dxs, dresiduals = [], []
        want_weight, want_bias = wanted[:2]
        for index, (x, dy, saved, weight, bias, y, mask, _) in enumerate(shards):
            of_x, of_residual = wanted[2 + index], wanted[2 + len(shards) + index]
            want = (of_x, want_weight, want_bias, of_residual)
            sums = (wires[index], totals[index], mask, y, group.size, tag)
            out = kernels.grad_input(options, x, want, weight, bias, dy, saved, *sums)
            dxs.append(out[0])
            dresiduals.append(dy if of_residual and out[3] is None else out[3])
            if index == 0:  # the first shard reports the gradients of weight and bias
                dweight, dbias, want_weight, want_bias = out[1], out[2], False, False
    except BaseException as error:
        group.fail(error, "backward", first)
        raise
    group.end()
    return dweight, dbias, *dxs, *dresiduals


def _raise_disagreement(x: Tensor, group: Group) -> None:
    """Raise if x's device reports that ranks disagreed in an earlier call."""
    if (text := take_disagreement(x)) is not None:
        raise group.disagreement(text)
