"""The phases of the core over the shards that this process holds, with the sums between them.

A rank of a torch.distributed group holds one shard of the batch; a list of shards is summed here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from torch import Tensor

from syncbn import Options

from . import bridge
from .launch import placement
from .tensors import doubles

# From the wires of the shards held here to their totals over the group, one for each shard.
SumWires = Callable[[list[Tensor]], list[Tensor]]

# One shard's pass: it yields a wire and is sent the total, as often as the group must talk.
Steps = Generator[Tensor, Tensor, None]


@dataclass(slots=True)
class Call:
    """What the calls of one pass have in common on all ranks."""

    options: Options
    group_size: int
    tag: int


@dataclass(slots=True)
class Forward:
    """The tensors of one shard's forward pass; running statistics where they are to be updated."""

    x: Tensor
    y: Tensor
    saved: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None
    mask: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    num_batches_tracked: Tensor | None = None


@dataclass(slots=True)
class Backward:
    """The tensors of one shard's backward pass; an output that is None is not wanted."""

    x: Tensor
    dy: Tensor
    saved: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    mask: Tensor | None = None
    y: Tensor | None = None
    dx: Tensor | None = None
    dresidual: Tensor | None = None
    dweight: Tensor | None = None
    dbias: Tensor | None = None


def forward(call: Call, shards: list[Forward], sum_wires: SumWires) -> None:
    """Normalize every shard with the statistics of the group; write y and saved."""
    _in_step([_forward_steps(call, shard) for shard in shards], sum_wires)


def backward(call: Call, shards: list[Backward], sum_wires: SumWires) -> None:
    """Write the gradients that every shard wants."""
    _in_step([_backward_steps(call, shard) for shard in shards], sum_wires)


def _in_step(passes: list[Steps], sum_wires: SumWires) -> None:
    wires = [next(steps) for steps in passes]
    while wires:
        totals = sum_wires(wires)
        wires = []
        for steps, total in zip(passes, totals, strict=True):
            try:
                wires.append(steps.send(total))
            except StopIteration:
                continue


def _forward_steps(call: Call, shard: Forward) -> Steps:
    options, x = call.options, shard.x
    sizes = bridge.sizes(x, options)
    launch = {**placement(x, sizes.workspace), "tag": call.tag}
    wire = doubles(sizes.wire, x)
    local_var = doubles(x.shape[1], x) if sizes.center_wire else None
    bridge.moments(options, x, wire, mask=shard.mask, local_var=local_var, **launch)
    total = yield wire
    center_total = None
    if sizes.center_wire:
        center_wire = doubles(sizes.center_wire, x)
        bridge.center(options, x, call.group_size, wire, total, local_var, center_wire, **launch)
        center_total = yield center_wire
    bridge.normalize(
        options,
        x,
        call.group_size,
        wire,
        total,
        shard.y,
        center_total=center_total,
        saved=shard.saved,
        weight=shard.weight,
        bias=shard.bias,
        running_mean=shard.running_mean,
        running_var=shard.running_var,
        num_batches_tracked=shard.num_batches_tracked,
        residual=shard.residual,
        **launch,
    )


def _backward_steps(call: Call, shard: Backward) -> Steps:
    options, x, dy, saved = call.options, shard.x, shard.dy, shard.saved
    sizes = bridge.sizes(x, options)
    launch = {**placement(x, sizes.workspace), "tag": call.tag}
    wire = doubles(sizes.grad_wire, x)
    parameters = {"weight": shard.weight, "bias": shard.bias}
    bridge.grad_moments(options, x, dy, saved, wire, y=shard.y, **parameters, **launch)
    total = yield wire
    bridge.grad_input(
        options,
        x,
        dy,
        saved,
        call.group_size,
        wire,
        total,
        dx=shard.dx,
        dresidual=shard.dresidual,
        dweight=shard.dweight,
        dbias=shard.dbias,
        mask=shard.mask,
        y=shard.y,
        **parameters,
        **launch,
    )
