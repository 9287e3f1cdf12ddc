"""The phases as plain functions over the core: allocate the outputs, launch, return them.

Eager mode calls them; library.py makes torch operators of them. All tensors are in the layouts of
layout.py:

    x, y, residual, dy   (N, C, ...), dense, of one shape, dtype and layout
    weight, bias         (C,), contiguous
    mask                 (N, *spatial), bool or uint8, contiguous
    saved                float64, 3C + 2 values: what forward keeps for backward
    wires, totals        float64; a longer vector is used up to the length that is needed

`tag` identifies a call, alike on all ranks. `wanted` says which of the gradients of x, weight, bias
and residual are needed. docs/mathematics.md defines wires and formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from syncnorm import Communicator, Options, _core

from .stream import launch

# From x and a length to a float64 vector of at least that length.
NewWire = Callable[[Tensor, int], Tensor]
Optional = Tensor | None


class Running(NamedTuple):
    """The running statistics: mean and var (C,), num_batches_tracked one int64."""

    mean: Optional = None
    var: Optional = None
    num_batches_tracked: Optional = None


# Of x, weight, bias and residual; None for a gradient that is not wanted. Without an activation
# that of the residual is dy, and None here.
Gradients = tuple[Optional, Optional, Optional, Optional]


NO_STATISTICS = Running()


def vector(x: Tensor, length: int) -> Tensor:
    """Return an uninitialized float64 vector on x's device."""
    # A subclass may have another method of that name: compiled code passes it on as it is.
    return Tensor.new_empty(x, length, dtype=torch.float64)


def forward_arguments(
    options: Options,
    x: Tensor,
    weight: Optional,
    bias: Optional,
    residual: Optional,
    running: Running,
    y: Tensor,
    keep: bool,
) -> dict[str, Any]:
    """Return what the functions that write y take by name; "saved" is allocated if `keep`."""
    mean, var, count = running
    return {
        **launch(x, options),
        "y": y,
        "saved": vector(x, _core.sizes(x, options).saved) if keep else None,
        "weight": weight,
        "bias": bias,
        "residual": residual,
        "running_mean": mean,
        "running_var": var,
        "num_batches_tracked": count,
    }


def backward_arguments(
    options: Options,
    x: Tensor,
    wanted: Sequence[bool],
    weight: Optional,
    bias: Optional,
    y: Optional,
    mask: Optional,
    status: bool = True,
) -> dict[str, Any]:
    """Return what the functions of a backward pass take by name, with the gradients allocated."""
    identity = options.activation == "identity"
    arguments = launch(x, options, status)
    arguments |= {"weight": weight, "bias": bias, "y": y, "mask": mask}
    arguments |= {
        "dx": torch.empty_like(x) if wanted[0] else None,
        "dweight": torch.empty_like(weight) if wanted[1] and weight is not None else None,
        "dbias": torch.empty_like(bias) if wanted[2] and bias is not None else None,
        "dresidual": torch.empty_like(x) if wanted[3] and not identity else None,
    }
    return arguments


def gradients(arguments: dict[str, Any]) -> Gradients:
    """Return the gradients of `backward_arguments`."""
    return arguments["dx"], arguments["dweight"], arguments["dbias"], arguments["dresidual"]


# Phases, with an all-reduce between them. The first phase of a pass takes the arguments of the last
# one, which validates them before the all-reduce: an error after it would leave the other ranks a
# call ahead.


def moments(
    options: Options,
    x: Tensor,
    mask: Optional,
    tag: int,
    arguments: dict[str, Any],
    new_wire: NewWire = vector,
) -> tuple[Tensor, Optional]:
    """Return this rank's wire and, where centering is on, the variances (C,) for center.

    Args:
        arguments: Those of normalize, or of `launch` alone.
    """
    sizes = _core.sizes(x, options)
    wire = new_wire(x, sizes.wire)
    local_var = vector(x, x.shape[1]) if sizes.center_wire else None
    _core.moments(options, x, wire, mask=mask, local_var=local_var, tag=tag, **arguments)
    return wire, local_var


def center(
    options: Options,
    x: Tensor,
    wire: Tensor,
    total: Tensor,
    local_var: Tensor,
    group_size: int,
    tag: int,
    new_wire: NewWire = vector,
) -> Tensor:
    """Return this rank's second wire, which makes the variance more accurate."""
    center_wire = new_wire(x, _core.sizes(x, options).center_wire)
    at = launch(x, options)
    _core.center(options, x, group_size, wire, total, local_var, center_wire, tag=tag, **at)
    return center_wire


def normalize(
    options: Options,
    x: Tensor,
    wire: Tensor,
    total: Tensor,
    center_total: Optional,
    group_size: int,
    tag: int,
    arguments: dict[str, Any],
) -> None:
    """Write y, saved and the running statistics that are in `forward_arguments`."""
    at = {"wire": wire, "total": total, "center_total": center_total, "tag": tag, **arguments}
    _core.normalize(options, x, group_size, **at)


def update_running(
    options: Options,
    x: Tensor,
    wire: Tensor,
    total: Tensor,
    center_total: Optional,
    running: Running,
    group_size: int,
    tag: int,
) -> None:
    """Update the running statistics in place."""
    at = launch(x, options)
    at |= {"center_total": center_total, "num_batches_tracked": running[2], "tag": tag}
    _core.update_running(options, x, group_size, wire, total, running[0], running[1], **at)


def grad_moments(
    options: Options,
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    tag: int,
    arguments: dict[str, Any],
    new_wire: NewWire = vector,
) -> Tensor:
    """Return this rank's wire of the backward pass.

    Args:
        arguments: Those of grad_input, or those that this phase reads: weight, bias, y and launch.
    """
    wire = new_wire(x, _core.sizes(x, options).grad_wire)
    _core.grad_moments(options, x, dy, saved, wire, tag=tag, **arguments)
    return wire


def grad_input(
    options: Options,
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    wire: Tensor,
    total: Tensor,
    group_size: int,
    tag: int,
    arguments: dict[str, Any],
) -> None:
    """Write the gradients that are in `backward_arguments`."""
    _core.grad_input(options, x, dy, saved, group_size, wire, total, tag=tag, **arguments)


# A whole pass in one call, for one rank or over a communicator that the core reduces with.


def forward(
    options: Options,
    x: Tensor,
    communicator: Communicator | None,
    mask: Optional,
    tag: int,
    arguments: dict[str, Any],
) -> None:
    """Write what is in `forward_arguments`."""
    _core.forward(options, communicator, x, mask=mask, tag=tag, **arguments)


def backward(
    options: Options,
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    communicator: Communicator | None,
    tag: int,
    arguments: dict[str, Any],
) -> None:
    """Write the gradients that are in `backward_arguments`."""
    _core.backward(options, communicator, x, dy, saved, tag=tag, **arguments)


# With the running statistics, on this rank alone.


def infer(
    options: Options,
    x: Tensor,
    running: Running,
    weight: Optional,
    bias: Optional,
    residual: Optional,
    y: Tensor,
    keep: bool,
) -> Optional:
    """Write y, and return saved if `keep`."""
    at = launch(x, options, status=False)
    saved = vector(x, _core.sizes(x, options).saved) if keep else None
    at |= {"weight": weight, "bias": bias, "residual": residual, "saved": saved}
    _core.infer(options, x, running[0], running[1], y, **at)
    return saved


def infer_backward(
    options: Options,
    x: Tensor,
    wanted: Sequence[bool],
    weight: Optional,
    bias: Optional,
    dy: Tensor,
    saved: Tensor,
    y: Optional,
) -> Gradients:
    """Return the gradients that are wanted."""
    arguments = backward_arguments(options, x, wanted, weight, bias, y, None, status=False)
    del arguments["mask"]
    _core.infer_backward(options, x, dy, saved, **arguments)
    return gradients(arguments)
