"""Batch normalization over a list of shards that one process holds, as one autograd Function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from syncbn import Options

from . import bridge, phases
from .autograd import allocate_gradients, backward_reads_output, first_order, gradients_of
from .options import Choices, Settings, core_options
from .tensors import (
    announce_written,
    canonical_mask,
    contiguous,
    dense_like,
    doubles,
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
    residuals: Sequence[Tensor] | None = None,
    masks: Sequence[Tensor | None] | None = None,
    num_batches_tracked: Tensor | None = None,
    **choices: Unpack[Choices],
) -> list[Tensor]:
    """Normalize every input with the statistics of all of them, each counting as one rank.

    The inputs may be on different devices. weight, bias and the running statistics exist once, on
    the first input's device; the gradient of weight and bias is that of all shards (their mean with
    grad_reduction="mean"). A rank-local variance_factor takes its count from the first input.
    """
    count = len(inputs)
    if count == 0:
        raise ValueError("inputs: got no tensor, expected at least one")
    given = [None] * count if residuals is None else residuals
    _check_alike(inputs, residuals=residuals, masks=masks)
    xs = [prepared(x, residual) for x, residual in zip(inputs, given, strict=True)]
    if choices.get("grad_reduction", "local") == "local":
        choices["grad_reduction"] = "sum"
    running = (running_mean, running_var, num_batches_tracked)
    canonical: Optional = [None] * count
    if masks is not None:
        canonical = [
            None if mask is None else canonical_mask(mask, x)
            for mask, x in zip(masks, xs, strict=True)
        ]
    batch = _Batch(core_options(Settings(eps, momentum, **choices)), count, canonical, running)
    outputs = _Shards.apply(  # type: ignore[no-untyped-call]
        batch, contiguous(weight), contiguous(bias), *xs, *given
    )
    announce_written(*running)
    return list(outputs)


def _check_alike(inputs: Sequence[Tensor], **lists: Sequence[Tensor | None] | None) -> None:
    for name, tensors in lists.items():
        if tensors is not None and len(tensors) != len(inputs):
            raise ValueError(f"{name}: got {len(tensors)}, expected {len(inputs)}, one per input")
    first = inputs[0]
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
            saved = doubles(bridge.sizes(x, options).saved, x)
            aligned = None if residual is None else dense_like(residual, x)
            affine = _at(weight, x), _at(bias, x)
            shards.append(
                phases.Forward(x, torch.empty_like(x), saved, *affine, aligned, _at(mask, x))
            )
        first = shards[0]
        first.running_mean, first.running_var, first.num_batches_tracked = batch.running
        phases.forward(batch.call, shards, _sum_here)
        kept = [s.y if backward_reads_output(options, s.residual) else None for s in shards]
        saved_all = [shard.saved for shard in shards]
        ctx.batch = batch
        ctx.save_for_backward(weight, bias, *xs, *saved_all, *batch.masks, *kept)
        return tuple(shard.y for shard in shards)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        def gradients(*tensors: Any) -> tuple[Tensor | None, ...]:
            return _gradients(ctx.batch, ctx.needs_input_grad[1:], tensors)

        return None, *first_order(gradients, *dys, *ctx.saved_tensors)


def _gradients(
    batch: _Batch, wanted: Sequence[bool], tensors: Sequence[Any]
) -> tuple[Tensor | None, ...]:
    """From dys and the saved tensors to the gradients of weight, bias, xs and residuals."""
    count, options = batch.call.group_size, batch.call.options
    dys, (weight, bias), columns = tensors[:count], tensors[count : count + 2], tensors[count + 2 :]
    shards, wanted_each = [], []
    for index, dy in enumerate(dys):
        x, saved, mask, y = columns[index::count]
        affine = _at(weight, x), _at(bias, x)
        shard = phases.Backward(x, dense_like(dy, x), saved, *affine, _at(mask, x), y)
        parameters = (wanted[0], wanted[1]) if index == 0 else (False, False)
        wanted_here = (wanted[2 + index], *parameters, wanted[2 + count + index])
        allocate_gradients(options, shard, wanted_here)
        shards.append(shard)
        wanted_each.append(wanted_here)
    phases.backward(batch.call, shards, _sum_here)
    each = [gradients_of(shard, here) for shard, here in zip(shards, wanted_each, strict=True)]
    dxs, dweights, dbiases, dresiduals = zip(*each, strict=True)
    return dweights[0], dbiases[0], *dxs, *dresiduals
