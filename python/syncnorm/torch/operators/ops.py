"""The forward phases of the core as operators of torch, which compilers and exporters see.

Each takes dense tensors in the layouts that the core asks for (tensors.py makes them so) and the
settings as a string (encoding.py), and gives new tensors. total is None in a group of one.
normalize and infer have derivatives, in grad_ops.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from syncnorm import Options, _core
from syncnorm.torch import bridge
from syncnorm.torch.autograd import in_backward_pass
from syncnorm.torch.launch import placement, raise_if_ranks_disagreed
from syncnorm.torch.tensors import announce_written, doubles

from .encoding import decoded
from .registration import operator


def sizes(x: Tensor, options: Options) -> _core.Sizes:
    """The lengths of wires, also for an x that has no memory, or whose batch size is a symbol."""
    channels = int(x.shape[1])
    dtype = str(x.dtype).removeprefix("torch.")
    return _core.sizes(_core.Array(0, (1, channels), (channels, 1), dtype), options)


def launch(options: Options, x: Tensor) -> dict[str, Any]:
    """The keyword arguments of a phase that say where it works."""
    return placement(x, bridge.sizes(x, options).workspace)


def another(wire: Tensor, total: Tensor | None) -> Tensor:
    """The total in memory of its own, as the core wants it also where it is the wire."""
    return wire.clone() if total is None else total


def empty_as(x: Tensor) -> Tensor:
    """A tensor with the strides of x, to the last: empty_like's may differ from those of a fake."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)


def _new_moments(x: Tensor, settings: str, *_: Any) -> list[Tensor]:
    lengths = sizes(x, decoded(settings))
    wire = doubles(lengths.wire, x)
    return [wire, doubles(x.shape[1], x)] if lengths.center_wire else [wire]


@operator(fake=_new_moments)
def moments(x: Tensor, settings: str, mask: Tensor | None, tag: int) -> list[Tensor]:
    """The wire of this rank and, where centring is on, the variances that center reads."""
    raise_if_ranks_disagreed(x)
    options, made = decoded(settings), _new_moments(x, settings)
    wire, local_var = made if len(made) == 2 else (*made, None)
    bridge.moments(options, x, wire, mask=mask, local_var=local_var, tag=tag, **launch(options, x))
    return made


def _new_center_wire(x: Tensor, settings: str, *_: Any) -> Tensor:
    return doubles(sizes(x, decoded(settings)).center_wire, x)


@operator(fake=_new_center_wire)
def center(
    x: Tensor,
    settings: str,
    wire: Tensor,
    total: Tensor | None,
    local_var: Tensor,
    group_size: int,
    tag: int,
) -> Tensor:
    """The second wire of this rank, where centring is on."""
    options, center_wire = decoded(settings), _new_center_wire(x, settings)
    bridge.center(
        options,
        x,
        group_size,
        wire,
        another(wire, total),
        local_var,
        center_wire,
        tag=tag,
        **launch(options, x),
    )
    return center_wire


def _new_output(x: Tensor, settings: str, *_: Any) -> tuple[Tensor, Tensor]:
    return empty_as(x), doubles(sizes(x, decoded(settings)).saved, x)


@operator(fake=_new_output)
def normalize(
    x: Tensor,
    settings: str,
    wire: Tensor,
    total: Tensor | None,
    center_total: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,  # noqa: ARG001
    anchor: Tensor | None,  # noqa: ARG001
    group_size: int,
    group: str,  # noqa: ARG001
    tag: int,
) -> tuple[Tensor, Tensor]:
    """y, and what the backward pass reads.

    For that pass alone: mask; group, who sums (sums.py); anchor, an input that requires a gradient
    where no other does, so that this rank joins (anchor.py).
    """
    options, (y, saved) = decoded(settings), _new_output(x, settings)
    bridge.normalize(
        options,
        x,
        group_size,
        wire,
        another(wire, total),
        y,
        center_total=center_total,
        saved=saved,
        weight=weight,
        bias=bias,
        residual=residual,
        tag=tag,
        **launch(options, x),
    )
    return y, saved


def _no_result(*_: Any) -> None:
    pass


@operator(fake=_no_result, writes=("running_mean", "running_var", "num_batches_tracked"))
def update_running(
    x: Tensor,
    settings: str,
    wire: Tensor,
    total: Tensor | None,
    center_total: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    group_size: int,
    tag: int,
) -> None:
    """Moves the running statistics, in place; but as synchronized.py not inside a backward pass."""
    if in_backward_pass():
        return
    options = decoded(settings)
    bridge.update_running(
        options,
        x,
        group_size,
        wire,
        another(wire, total),
        running_mean,
        running_var,
        center_total=center_total,
        num_batches_tracked=num_batches_tracked,
        tag=tag,
        **launch(options, x),
    )
    announce_written(running_mean, running_var, num_batches_tracked)


@operator(fake=_new_output)
def infer(
    x: Tensor,
    settings: str,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y with the running statistics, and what the backward pass reads."""
    options, (y, saved) = decoded(settings), _new_output(x, settings)
    bridge.infer(
        options,
        x,
        running_mean,
        running_var,
        y,
        weight=weight,
        bias=bias,
        residual=residual,
        saved=saved,
        **launch(options, x),
    )
    return y, saved
