"""The phases, for callers that sum the wires themselves. Every wire returned is a new array.

    wire, local_var = moments(x)                          # total = sum of wire over the group
    y, saved = normalize(x, group_size, wire, total)
    wire = grad_moments(dy, saved)                        # total = sum of wire over the group
    gradients = grad_input(dy, saved, group_size, wire, total)

Where centring is on (float64 x by default), center makes one more wire between the first two.
"""

from __future__ import annotations

import numpy as np

from syncbn import _core
from syncbn._core import Options
from syncbn.numpy.arrays import dense, in_layout_of, view, workspace
from syncbn.numpy.functional import (
    DEFAULT_OPTIONS,
    Array,
    Gradients,
    Saved,
    empty_gradients,
    gradient_arguments,
    outputs,
    parameter_arguments,
)


def moments(
    x: Array,
    *,
    mask: Array | None = None,
    options: Options = DEFAULT_OPTIONS,
    num_threads: int = 1,
    tag: int = 0,
) -> tuple[Array, Array | None]:
    """The wire of this rank, float64[2C + 4], and local_var, float64[C], where center needs it."""
    x = dense(x)
    sizes = _core.sizes(view(x, "x"), options)
    wire = np.empty(sizes.wire)
    local_var = np.empty(x.shape[1]) if sizes.center_wire else None
    _core.moments(
        options,
        view(x, "x"),
        view(wire, "wire"),
        mask=view(mask, "mask"),
        local_var=view(local_var, "local_var"),
        workspace=workspace(x, options),
        num_threads=num_threads,
        tag=tag,
    )
    return wire, local_var


def center(
    x: Array,
    group_size: int,
    wire: Array,
    total: Array,
    local_var: Array,
    *,
    options: Options = DEFAULT_OPTIONS,
    tag: int = 0,
) -> Array:
    """The second wire, to be summed over the group as center_total; reads only x's shape."""
    x_view = view(dense(x), "x")
    center_wire = np.empty(_core.sizes(x_view, options).center_wire)
    wires = (view(wire, "wire"), view(total, "total"), view(local_var, "local_var"))
    target = view(center_wire, "center_wire")
    _core.center(options, x_view, group_size, *wires, target, tag=tag)
    return center_wire


def normalize(
    x: Array,
    group_size: int,
    wire: Array,
    total: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    center_total: Array | None = None,
    residual: Array | None = None,
    mask: Array | None = None,
    num_batches_tracked: Array | None = None,
    options: Options = DEFAULT_OPTIONS,
    num_threads: int = 1,
    tag: int = 0,
    out: Array | None = None,
) -> tuple[Array, Saved]:
    """y and what backward takes, from this rank's wire and the sum of all group_size wires.

    The other arguments as in forward. The mask is kept for grad_input; give the one of moments.
    """
    x = dense(x)
    y, saved = outputs(x, weight, bias, residual, mask, options, out)
    _core.normalize(
        options,
        view(x, "x"),
        group_size,
        view(wire, "wire"),
        view(total, "total"),
        view(y, "y"),
        center_total=view(center_total, "center_total"),
        saved=view(saved.statistics, "saved"),
        weight=view(weight, "weight"),
        bias=view(bias, "bias"),
        running_mean=view(running_mean, "running_mean"),
        running_var=view(running_var, "running_var"),
        num_batches_tracked=view(num_batches_tracked, "num_batches_tracked"),
        residual=view(in_layout_of(x, residual), "residual"),
        workspace=workspace(x, options),
        num_threads=num_threads,
        tag=tag,
    )
    return y, saved


def grad_moments(dy: Array, saved: Saved, *, num_threads: int = 1, tag: int = 0) -> Array:
    """The wire of this rank for the backward pass, float64[2C + 2]."""
    wire = np.empty(_core.sizes(view(saved.x, "x"), saved.options).grad_wire)
    _core.grad_moments(
        saved.options,
        view(saved.x, "x"),
        view(in_layout_of(saved.x, dy), "dy"),
        view(saved.statistics, "saved"),
        view(wire, "wire"),
        **parameter_arguments(saved),
        workspace=workspace(saved.x, saved.options),
        num_threads=num_threads,
        tag=tag,
    )
    return wire


def grad_input(
    dy: Array,
    saved: Saved,
    group_size: int,
    wire: Array,
    total: Array,
    *,
    num_threads: int = 1,
    tag: int = 0,
) -> Gradients:
    """The gradients, from this rank's wire and the sum of the wires of all group_size ranks."""
    gradients = empty_gradients(saved)
    _core.grad_input(
        saved.options,
        view(saved.x, "x"),
        view(in_layout_of(saved.x, dy), "dy"),
        view(saved.statistics, "saved"),
        group_size,
        view(wire, "wire"),
        view(total, "total"),
        **gradient_arguments(saved, gradients),
        mask=view(saved.mask, "mask"),
        workspace=workspace(saved.x, saved.options),
        num_threads=num_threads,
        tag=tag,
    )
    return gradients
