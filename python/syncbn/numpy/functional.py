"""Batch normalization of NumPy arrays: forward, backward, and inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from syncbn import _core
from syncbn._core import Communicator, Options
from syncbn.numpy.arrays import dense, in_layout_of, view, workspace

Array: TypeAlias = np.ndarray[Any, Any]

DEFAULT_OPTIONS = Options()


@dataclass(frozen=True)
class Saved:
    """What the backward pass needs of the forward pass. The arrays must not change in between."""

    x: Array  # with options.in_place the output
    statistics: Array  # float64[3C + 2], as syncbn.h describes it
    weight: Array | None
    bias: Array | None
    mask: Array | None
    y: Array | None  # where x does not tell what the activation was given
    has_residual: bool
    options: Options
    frozen: bool  # made by infer: no group is involved in the backward pass


@dataclass(frozen=True)
class Gradients:
    """Gradients of x and of those parameters that the forward pass had; the others are None."""

    dx: Array
    dweight: Array | None
    dbias: Array | None
    dresidual: Array | None


def forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    residual: Array | None = None,
    mask: Array | None = None,
    num_batches_tracked: Array | None = None,
    options: Options = DEFAULT_OPTIONS,
    comm: Communicator | None = None,
    num_threads: int = 1,
    out: Array | None = None,
) -> tuple[Array, Saved]:
    """Normalize x (N, C, ...) by the group's statistics; returns y, and what backward takes.

    Every rank of `comm` calls it; None is a group of one. dtypes: float16, bfloat16 (of ml_dtypes),
    float32, float64. y has the memory layout of x, channels first or channels last; other strides
    are made dense in a copy. running_mean and running_var (C,) and num_batches_tracked (one int64)
    are updated in place. mask: x's shape without axis 1, uint8 or bool; 0: the position does not
    count. out: where y goes, of x's shape, dtype and layout; with options.in_place this may be x.

    Raises InvalidArgumentError for a wrong shape, dtype or layout and for a read-only output,
    and what `comm` raises.
    """
    x = dense(x)
    y, saved = outputs(x, weight, bias, residual, mask, options, out)
    _core.forward(
        options,
        comm,
        view(x, "x"),
        view(y, "y"),
        saved=view(saved.statistics, "saved"),
        mask=view(mask, "mask"),
        residual=view(in_layout_of(x, residual), "residual"),
        weight=view(weight, "weight"),
        bias=view(bias, "bias"),
        running_mean=view(running_mean, "running_mean"),
        running_var=view(running_var, "running_var"),
        num_batches_tracked=view(num_batches_tracked, "num_batches_tracked"),
        workspace=workspace(x, options),
        num_threads=num_threads,
    )
    return y, saved


def infer(
    x: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    residual: Array | None = None,
    options: Options = DEFAULT_OPTIONS,
    num_threads: int = 1,
    out: Array | None = None,
) -> tuple[Array, Saved]:
    """Normalize x by running statistics, which stay as they are; the rest is as in forward."""
    x = dense(x)
    y, saved = outputs(x, weight, bias, residual, None, options, out, frozen=True)
    _core.infer(
        options,
        view(x, "x"),
        view(running_mean, "running_mean"),
        view(running_var, "running_var"),
        view(y, "y"),
        weight=view(weight, "weight"),
        bias=view(bias, "bias"),
        residual=view(in_layout_of(x, residual), "residual"),
        saved=view(saved.statistics, "saved"),
        workspace=workspace(x, options),
        num_threads=num_threads,
    )
    return y, saved


def backward(
    dy: Array, saved: Saved, *, comm: Communicator | None = None, num_threads: int = 1
) -> Gradients:
    """The gradients, from dy (x's shape and dtype) and what forward or infer saved.

    After forward, every rank of `comm` calls it. dweight and dbias are what
    options.grad_reduction says. Raises as forward.
    """
    gradients = empty_gradients(saved)
    inputs = (view(saved.x, "x"), view(in_layout_of(saved.x, dy), "dy"))
    statistics = view(saved.statistics, "saved")
    common = {
        **gradient_arguments(saved, gradients),
        "workspace": workspace(saved.x, saved.options),
        "num_threads": num_threads,
    }
    if saved.frozen:
        _core.infer_backward(saved.options, *inputs, statistics, **common)
    else:
        mask = view(saved.mask, "mask")
        _core.backward(saved.options, comm, *inputs, statistics, mask=mask, **common)
    return gradients


def outputs(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    mask: Array | None,
    options: Options,
    out: Array | None,
    *,
    frozen: bool = False,
) -> tuple[Array, Saved]:
    """Memory for y and for the statistics, not yet filled."""
    y = np.empty_like(x, subok=False) if out is None else out
    needs_y = residual is not None and options.activation != "identity"
    saved = Saved(
        x=y if options.in_place else x,
        statistics=np.empty(_core.sizes(view(x, "x"), options).saved),
        weight=weight,
        bias=bias,
        mask=mask,
        y=y if needs_y else None,
        has_residual=residual is not None,
        options=options,
        frozen=frozen,
    )
    return y, saved


def empty_gradients(saved: Saved) -> Gradients:
    """Memory for the gradients, not yet filled."""

    def like(array: Array | None) -> Array | None:
        return None if array is None else np.empty_like(array, subok=False)

    dresidual = np.empty_like(saved.x, subok=False) if saved.has_residual else None
    dx = np.empty_like(saved.x, subok=False)
    return Gradients(dx, like(saved.weight), like(saved.bias), dresidual)


def gradient_arguments(saved: Saved, gradients: Gradients) -> dict[str, Any]:
    """The keywords that every function of the backward pass takes which writes gradients."""
    return {
        **parameter_arguments(saved),
        "dx": view(gradients.dx, "dx"),
        "dresidual": view(gradients.dresidual, "dresidual"),
        "dweight": view(gradients.dweight, "dweight"),
        "dbias": view(gradients.dbias, "dbias"),
    }


def parameter_arguments(saved: Saved) -> dict[str, Any]:
    return {
        "weight": view(saved.weight, "weight"),
        "bias": view(saved.bias, "bias"),
        "y": view(saved.y, "y"),
    }
