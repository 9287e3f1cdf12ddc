"""Batch normalization over a list of shards that one process holds, as one autograd Function."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from syncnorm import Options

from . import bridge, phases, second_order
from .autograd import (
    Tensors,
    allocate_gradients,
    differentiable,
    gradients_of,
    in_backward_pass,
    keep_values,
    kept_outputs,
    refuse_batched,
    refuse_leaves,
    refuse_transforms,
    shard_of,
)
from .options import Choices, Settings, core_options
from .tensors import (
    announce_written,
    canonical_mask,
    contiguous,
    dense_like,
    doubles,
    output_for,
    prepared,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

Optional = Sequence[Tensor | None]


def sync_batch_norm_shards(
    inputs: Sequence[Tensor],
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    residuals: Sequence[Tensor | None] | None = None,
    masks: Sequence[Tensor | None] | None = None,
    num_batches_tracked: Tensor | None = None,
    **choices: Unpack[Choices],
) -> list[Tensor]:
    """Normalize every input with the statistics of all of them, each counting as one rank.

    The inputs may be on different devices. weight, bias and the running statistics exist once, on
    the first input's device; the gradient of weight and bias is that of all shards (their mean with
    grad_reduction="mean"). A rank-local variance_factor takes its count from the first input.
    """
    check_alike(inputs, residuals=residuals, masks=masks)
    return normalize_shards(
        Settings(eps, momentum, **choices),
        inputs,
        running=(running_mean, running_var, num_batches_tracked),
        weight=weight,
        bias=bias,
        residuals=residuals,
        masks=masks,
    )


def normalize_shards(
    settings: Settings,
    inputs: Sequence[Tensor],
    *,
    running: tuple[Tensor | None, Tensor | None, Tensor | None],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residuals: Optional | None = None,
    masks: Optional | None = None,
    repeats_update: bool = False,
) -> list[Tensor]:
    """sync_batch_norm_shards of inputs that are alike. repeats_update: as in entry.batch_norm."""
    count = len(inputs)
    refuse_transforms(*inputs, weight, bias, *(residuals or ()))
    given = [None] * count if residuals is None else residuals
    xs = [prepared(x, residual) for x, residual in zip(inputs, given, strict=True)]
    if settings.grad_reduction == "local":
        settings = settings._replace(grad_reduction="sum")
    if in_backward_pass() and not repeats_update:
        running = (None, None, None)
    canonical: Optional = [None] * count
    if masks is not None:
        canonical = [
            None if mask is None else canonical_mask(mask, x)
            for mask, x in zip(masks, xs, strict=True)
        ]
    options = core_options(settings)
    refuse_leaves(options, *xs)
    batch = _Batch(options, count, canonical, running)
    outputs = _Shards.apply(  # type: ignore[no-untyped-call]
        batch, contiguous(weight), contiguous(bias), *xs, *given
    )
    announce_written(*running)
    return list(outputs)


def check_alike(inputs: Sequence[Tensor], **lists: Sequence[Tensor | None] | None) -> None:
    """Raise ValueError unless these can be the shards of one batch."""
    if not inputs:
        raise ValueError("inputs: got no tensor, expected at least one")
    for name, tensors in lists.items():
        if isinstance(tensors, Tensor):
            raise ValueError(f"{name}: got one tensor, expected a list of {len(inputs)}")
        if tensors is not None and len(tensors) != len(inputs):
            raise ValueError(f"{name}: got {len(tensors)}, expected {len(inputs)}, one per input")
    first = inputs[0]
    if first.dim() < 2:
        raise ValueError(f"inputs[0]: expected at least 2D input (got {first.dim()}D input)")
    for index, x in enumerate(inputs):
        if x.dim() < 2 or x.shape[1] != first.shape[1] or x.dtype != first.dtype:
            raise ValueError(
                f"inputs[{index}]: got shape {tuple(x.shape)} and {x.dtype}, expected"
                f" {first.shape[1]} channels and {first.dtype} as in inputs[0]"
            )


class _Batch:
    """What the shards of one call share."""

    def __init__(
        self, options: Options, count: int, masks: Optional, running: tuple[Tensor | None, ...]
    ) -> None:
        self.call = phases.Call(options, count, tag=0)
        self.masks = masks
        self.running = running


def _sum_here(wires: list[Tensor]) -> list[Tensor]:
    total = wires[0].clone()
    for wire in wires[1:]:
        total += wire.to(total.device)
    return [total.to(wire.device) for wire in wires]


def _at(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.to(x.device)


class _Shards(Function):
    @staticmethod
    def forward(
        ctx: Any, batch: _Batch, weight: Tensor | None, bias: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        count, options = batch.call.group_size, batch.call.options
        xs, residuals = tensors[:count], tensors[count:]
        shards = []
        for x, residual, mask in zip(xs, residuals, batch.masks, strict=True):
            sizes = bridge.sizes(x, options)
            saved = doubles(sizes.saved, x)
            aligned = None if residual is None else dense_like(residual, x)
            tensors_here = _at(weight, x), _at(bias, x), aligned, _at(mask, x)
            shards.append(phases.Forward(x, output_for(options, x), sizes, saved, *tensors_here))
        first = shards[0]
        first.running_mean, first.running_var, first.num_batches_tracked = batch.running
        phases.forward(batch.call, shards, _sum_here)
        ctx.call = batch.call
        values = keep_values(ctx, options, xs, [shard.y for shard in shards])
        # By column: what is saved of every shard.
        kept = [kept_outputs(options, shard.y, shard.residual) for shard in shards]
        saved_all = [shard.saved for shard in shards]
        columns = [values, saved_all, batch.masks, *zip(*kept, strict=True)]
        ctx.save_for_backward(weight, bias, *itertools.chain(*columns))
        return tuple(shard.y for shard in shards)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Tensors:
        refuse_batched(*dys)
        first = partial(_first, ctx.call, ctx.needs_input_grad[1:])
        tensors = *dys, *ctx.saved_tensors
        if not torch.is_grad_enabled():
            return None, *first(*tensors)
        return None, *differentiable(first, partial(_second, ctx.call), False, *tensors)


def _shards_of(count: int, tensors: Sequence[Any]) -> list[phases.Backward]:
    """From dys and the saved tensors, which are those of all shards, to the shards."""
    dys, (weight, bias), columns = tensors[:count], tensors[count : count + 2], tensors[count + 2 :]
    shards = []
    for index, dy in enumerate(dys):
        x, saved, mask, *kept = columns[index::count]
        affine = _at(weight, x), _at(bias, x)
        shards.append(shard_of(dy, x, *affine, saved, _at(mask, x), *kept))
    return shards


def _first(call: phases.Call, wanted: Sequence[bool], *tensors: Any) -> Tensors:
    """The gradients of weight, bias, xs and residuals."""
    count = call.group_size
    shards = _shards_of(count, tensors)
    wanted_each = [
        (wanted[2 + index], wanted[0] and index == 0, wanted[1] and index == 0, residual)
        for index, residual in enumerate(wanted[2 + count :])
    ]
    for shard, here in zip(shards, wanted_each, strict=True):
        allocate_gradients(call.options, shard, here)
    phases.backward(call, shards, _sum_here)
    each = [gradients_of(shard, here) for shard, here in zip(shards, wanted_each, strict=True)]
    dxs, dweights, dbiases, dresiduals = zip(*each, strict=True)
    return dweights[0], dbiases[0], *dxs, *dresiduals


def _second(call: phases.Call, cotangents: Tensors, tensors: Tensors) -> Tensors:
    """From cotangents of what _first returns to the derivatives by its tensors."""
    count = call.group_size
    dweight, dbias = cotangents[:2]
    dxs, dresiduals = cotangents[2 : 2 + count], cotangents[2 + count :]
    # The gradients of the parameters are what the first shard reports.
    parameters = [(dweight, dbias), *[(None, None)] * (count - 1)]
    each = [
        second_order.Cotangents(dx, *both, dresidual)
        for dx, both, dresidual in zip(dxs, parameters, dresiduals, strict=True)
    ]
    bent = list(tensors[-count:])
    derivatives = second_order.backward(call, _shards_of(count, tensors), each, bent, _sum_here)
    dys, xs, weights, ys = zip(*derivatives, strict=True)
    nothing = [None] * count
    # As the tensors: dys, weight, bias, and by column xs, saved, masks, y for the core, bent.
    return *dys, weights[0], None, *xs, *nothing, *nothing, *nothing, *ys
