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
from torch.nn import Parameter

from syncnorm import ArgumentTypeError
from syncnorm.settings import core_options
from syncnorm.torch.call import Call
from syncnorm.torch.groups.process_group import Group
from syncnorm.torch.ops import kernels
from syncnorm.torch.ops.kernels import NO_STATISTICS, Running
from syncnorm.torch.ops.layout import (
    bump_versions,
    check_strided,
    on_device_of,
    resolved,
    statistic,
    write_back,
)
from syncnorm.torch.ops.stream import take_disagreement

from .autograd import (
    GRAD_DUMMY,
    Optional,
    Pass,
    Shard,
    Tensors,
    refuse_batched,
    refuse_overwriting,
    running_to_update,
    save,
    shards_of,
    wants_gradient,
)
from .double_backward import differentiable

_NAMES = ("input", "weight", "bias", "running_mean", "running_var", "num_batches_tracked")


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
    options = core_options(call.settings, call.training)
    (weight, bias), running, recording = call.affine, call.running, torch.is_grad_enabled()
    if options.in_place:
        refuse_overwriting(xs)
    group.check_device(xs[0].device)
    if call.training:
        running = running_to_update(running, xs[0], call.update_in_backward)
    mean, var, _ = running
    # is_neg() takes as long as all of this: only for what is no parameter, and no statistics.
    if not (
        (
            weight is None
            or (weight.is_contiguous() and (type(weight) is Parameter or not weight.is_neg()))
        )
        and (
            bias is None
            or (bias.is_contiguous() and (type(bias) is Parameter or not bias.is_neg()))
        )
        and (mean is None or mean.is_contiguous())
        and (var is None or var.is_contiguous())
    ):
        weight, bias, running = _vectors(weight, bias, running, call.training)
    this: Pass = (options, group, not call.training, running, masks)
    wanted = recording and (xs[0].requires_grad or wants_gradient(weight, bias, *xs, *residuals))
    ys: Sequence[Tensor]
    try:
        if wanted or (recording and group.synchronized):
            dummy = None if wanted else GRAD_DUMMY
            ys = _apply(this, *xs, weight, bias, *residuals, dummy)
        else:
            ys, _, _ = _forward(this, weight, bias, xs, residuals, keep=False)
            if options.in_place and not xs[0].is_inference():
                bump_versions(*xs)
    except ArgumentTypeError:
        _check_dense(xs[0], call)
        raise
    if call.training and running[0] is not None:
        bump_versions(*running)
        if running is not call.running:
            write_back(running, call.running)
    return ys


def _vectors(
    weight: Optional, bias: Optional, running: Running, is_updated: bool
) -> tuple[Optional, Optional, Running]:
    """Return the parameters and the running statistics as the core takes them."""
    weight = None if weight is None else resolved(weight, "weight: ").contiguous()
    bias = None if bias is None else resolved(bias, "bias: ").contiguous()
    mean = statistic(running.mean, "running_mean", is_updated)
    var = statistic(running.var, "running_var", is_updated)
    return weight, bias, running._replace(mean=mean, var=var)


def _check_dense(x: Tensor, call: Call) -> None:
    """Raise for a quantized tensor: the core's error for it has the text of DLPack."""
    for name, each in zip(_NAMES, (x, *call.affine, *call.running), strict=True):
        if each is not None:
            check_strided(each, f"{name}: ")


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
    if group.synchronized and x.is_cuda:
        _raise_disagreement(x, group)
    tag = group.next_tag(x)
    if communicator is None and (group.size > 1 or group.synchronized):
        ys, kept = _forward_phases(this, tag, weight, bias, xs, residuals, keep)
        return ys, kept, tag
    y = x if options.in_place else torch.empty_like(x)
    if frozen:
        saved = kernels.infer(options, x, running, weight, bias, residuals[0], y, keep)
        return (y,), (saved,), tag
    given = (weight, bias, residuals[0], running, y, keep)
    arguments = kernels.forward_arguments(options, x, *given)
    try:
        kernels.forward(options, x, communicator, masks[0], tag, arguments)
    except BaseException as error:
        group.fail(error, "forward", x)
        raise
    return (y,), (arguments["saved"],), tag


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
    size, new_wire, first = group.size, group.new_wire, xs[0]
    # Wires identify the layer only: a recomputation (activation checkpointing) may take the totals
    # from its cache. `saved` identifies the pass.
    layer = group.tag
    wires, local_vars, passes = [], [], []
    # All arguments are validated, and all outputs allocated, before the first all-reduce.
    for index, (x, residual, mask) in enumerate(zip(xs, residuals, masks, strict=True)):
        if index > 0:  # the first shard updates the running statistics
            weight, bias = on_device_of(x, weight, bias)
            running = NO_STATISTICS
        y = x if options.in_place else torch.empty_like(x)
        given = (weight, bias, residual, running, y, keep)
        arguments = kernels.forward_arguments(options, x, *given)
        wire, local_var = kernels.moments(options, x, mask, layer, arguments, new_wire)
        wires.append(wire)
        local_vars.append(local_var)
        passes.append(arguments)
    group.begin("forward", tag, options, first)
    try:
        totals = group.all_reduce(wires)
        centers: Sequence[Optional] = [None] * len(xs)
        if local_vars[0] is not None:
            centers = group.all_reduce(
                [
                    kernels.center(options, x, wire, total, local_var, size, layer, new_wire)
                    for x, wire, total, local_var in zip(xs, wires, totals, local_vars, strict=True)
                    if local_var is not None
                ]
            )
        ys, saved = [], []
        parts = zip(xs, wires, totals, centers, passes, strict=True)
        for x, wire, total, center, arguments in parts:
            kernels.normalize(options, x, wire, total, center, size, tag, arguments)
            ys.append(arguments["y"])
            saved.append(arguments["saved"])
    except BaseException as error:
        group.fail(error, "forward", first)
        raise
    group.end()
    return ys, saved


def _backward(this: Pass, tag: int, wanted: Sequence[bool], *tensors: Any) -> Tensors:
    """Return the gradients of weight, bias, xs and residuals that are wanted."""
    options, group, frozen, _, _ = this
    shards = shards_of(this, tensors)
    x, dy, saved, weight, bias, y, mask, _ = shards[0]
    if group.communicator is None and (group.size > 1 or group.synchronized):
        return _backward_phases(this, tag, wanted, shards)
    of_weight, of_bias, of_x, of_residual = wanted
    want = (of_x, of_weight, of_bias, of_residual)
    if frozen:
        gradients = kernels.infer_backward(options, x, want, weight, bias, dy, saved, y)
    else:
        if group.synchronized and x.is_cuda:
            _raise_disagreement(x, group)
        arguments = kernels.backward_arguments(options, x, want, weight, bias, y, mask)
        try:
            kernels.backward(options, x, dy, saved, group.communicator, tag, arguments)
        except BaseException as error:
            group.fail(error, "backward", x)
            raise
        gradients = kernels.gradients(arguments)
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
    wires, passes = [], []
    want_weight, want_bias, *others = wanted
    for index, (x, dy, saved, weight, bias, y, mask, _) in enumerate(shards):
        want = (others[index], want_weight, want_bias, others[len(shards) + index])
        arguments = kernels.backward_arguments(options, x, want, weight, bias, y, mask)
        wires.append(kernels.grad_moments(options, x, dy, saved, tag, arguments, group.new_wire))
        passes.append(arguments)
        want_weight = want_bias = False  # the first shard reports the gradients of weight and bias
    group.begin("backward", tag, options, first)
    try:
        totals = group.all_reduce(wires)
        for shard, wire, total, arguments in zip(shards, wires, totals, passes, strict=True):
            x, dy, saved = shard[:3]
            kernels.grad_input(options, x, dy, saved, wire, total, group.size, tag, arguments)
    except BaseException as error:
        group.fail(error, "backward", first)
        raise
    group.end()
    dxs, dresiduals = [], []
    for shard, arguments, of_residual in zip(shards, passes, others[len(shards) :], strict=True):
        dxs.append(arguments["dx"])
        dresidual = arguments["dresidual"]
        dresiduals.append(shard[1] if of_residual and dresidual is None else dresidual)
    return passes[0]["dweight"], passes[0]["dbias"], *dxs, *dresiduals


def _raise_disagreement(x: Tensor, group: Group) -> None:
    """Raise if x's device reports that ranks disagreed in an earlier call."""
    if (text := take_disagreement(x)) is not None:
        raise group.disagreement(text)
