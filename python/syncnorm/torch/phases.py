"""The phases of the core over the shards that this process holds, with the sums between them.

A rank of a torch.distributed group holds one shard of the batch; a list of shards is summed here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from syncnorm import Options
from syncnorm._core import Sizes

from . import bridge
from .launch import placement
from .tensors import doubles

# From the wires of the shards held here to their totals over the group, one for each shard.
SumWires = Callable[[list[Tensor]], list[Tensor]]

# One shard's pass: it yields a wire and is sent the total, as often as the group must talk.
Steps = Generator[Tensor, Tensor, Any]


def alone(wires: list[Tensor]) -> list[Tensor]:
    """The SumWires of one rank that has no group."""
    return wires


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
    sizes: Sizes
    saved: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None
    mask: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    num_batches_tracked: Tensor | None = None

    def beside_y(self) -> dict[str, Tensor | None]:
        """What the core takes by name where it writes y."""
        return {
            "saved": self.saved,
            "weight": self.weight,
            "bias": self.bias,
            "residual": self.residual,
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "num_batches_tracked": self.num_batches_tracked,
        }


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

    def beside_dy(self) -> dict[str, Tensor | None]:
        """What the core takes by name where it writes gradients."""
        return {
            "dx": self.dx,
            "dresidual": self.dresidual,
            "dweight": self.dweight,
            "dbias": self.dbias,
            "weight": self.weight,
            "bias": self.bias,
            "y": self.y,
        }


def forward(call: Call, shards: list[Forward], sum_wires: SumWires) -> None:
    """Normalize every shard with the statistics of the group; write y and saved."""
    in_step([_forward_steps(call, shard) for shard in shards], sum_wires)


def backward(call: Call, shards: list[Backward], sum_wires: SumWires) -> None:
    """Write the gradients that every shard wants."""
    in_step([_backward_steps(call, shard) for shard in shards], sum_wires)


def in_step(passes: list[Steps], sum_wires: SumWires) -> list[Any]:
    """Take the passes from wire to wire together; what each returns in the end."""
    wires = [next(steps) for steps in passes]
    results = []
    while wires:
        totals = sum_wires(wires)
        wires = []
        for steps, total in zip(passes, totals, strict=True):
            try:
                wires.append(steps.send(total))
            except StopIteration as end:
                results.append(end.value)
    return results


def _forward_steps(call: Call, shard: Forward) -> Steps:
    options, x, sizes = call.options, shard.x, shard.sizes
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
        **shard.beside_y(),
        **launch,
    )


def _backward_steps(call: Call, shard: Backward) -> Steps:
    options, x, dy, saved = call.options, shard.x, shard.dy, shard.saved
    sizes = bridge.sizes(x, options)
    launch = {**placement(x, sizes.workspace), "tag": call.tag}
    wire = doubles(sizes.grad_wire, x)
    given = {"weight": shard.weight, "bias": shard.bias, "y": shard.y}
    bridge.grad_moments(options, x, dy, saved, wire, **given, **launch)
    total = yield wire
    bridge.grad_input(
        options,
        x,
        dy,
        saved,
        call.group_size,
        wire,
        total,
        mask=shard.mask,
        **shard.beside_dy(),
        **launch,
    )
