"""Allocates the results of a call and makes the keyword arguments of the core's functions."""

from __future__ import annotations

from typing import Any

from syncnorm import ArgumentTypeError, Communicator, InvalidArgumentError
from syncnorm._core import Array

from .library import A
from .operands import Operands
from .results import Gradients, Saved


def allocate_forward(
    operands: Operands[A], weight: Any, bias: Any, residual: Any, mask: Any, out: Any
) -> tuple[A, Array, Saved[A]]:
    """Return y, its view and saved, all still without values."""
    y, y_view = operands.data_output(out)
    if out is not None and not operands.options.in_place and y_view.overlaps(operands.x_view):
        raise InvalidArgumentError(
            "out: shares memory with x, which the backward pass reads; pass another array, or"
            " in_place=True"
        )
    statistics, statistics_view = operands.new_float64(operands.sizes.saved, "saved")
    weight = operands.parameter(weight, "weight")
    bias = operands.parameter(bias, "bias")
    has_residual = residual is not None
    views = {
        "x": operands.x_view,
        "saved": statistics_view,
        "weight": operands.vector_view(weight, "weight"),
        "bias": operands.vector_view(bias, "bias"),
    }
    if has_residual and operands.options.activation != "identity":
        views["y"] = y_view  # the input of the activation cannot be computed from x alone
    mask_view = operands.mask(mask)
    return y, y_view, Saved(operands, statistics, weight, bias, has_residual, views, mask_view)


def forward_arguments(saved: Saved[A], residual: Any) -> dict[str, Any]:
    """Return the arguments of every forward function, besides x and y."""
    views = saved.views
    return {
        "saved": views["saved"],
        "weight": views["weight"],
        "bias": views["bias"],
        "residual": saved.operands.optional_data_input(residual, "residual"),
        **saved_placement(saved),
    }


def running_arguments(
    operands: Operands[A], mean: Any, var: Any, num_batches_tracked: Any
) -> dict[str, Any]:
    """Return the arguments for running statistics that the call updates."""
    return {
        "running_mean": operands.vector_output(mean, "running_mean"),
        "running_var": operands.vector_output(var, "running_var"),
        "num_batches_tracked": operands.counter(num_batches_tracked),
    }


def replace_x_in_place(saved: Saved[A], y: A, y_view: Array) -> None:
    """With in_place=True replace x by y, which the backward pass reads instead."""
    if saved.operands.options.in_place:
        saved.operands.x, saved.operands.x_view = y, y_view
        saved.views["x"] = y_view


def allocate_gradients(saved: Saved[A]) -> Gradients[A]:
    """Return the gradients of a forward pass, still without values."""
    operands = saved.operands

    def like(parameter: A | None) -> A | None:
        if parameter is None:
            return None
        return operands.library.empty(parameter.shape, parameter.dtype)

    dresidual = operands.empty_like_x() if saved.has_residual else None
    return Gradients(operands.empty_like_x(), like(saved.weight), like(saved.bias), dresidual)


def gradient_arguments(saved: Saved[A], dy: Any, gradients: Gradients[A]) -> dict[str, Any]:
    """Return the arguments of every function that computes gradients."""
    operands = saved.operands
    dx, dweight, dbias = gradients
    dresidual = gradients.dresidual
    return {
        "dy": operands.data_input(dy, "dy"),
        **saved.views,
        "dx": operands.data_view(dx, "dx"),
        "dresidual": None if dresidual is None else operands.data_view(dresidual, "dresidual"),
        "dweight": operands.vector_view(dweight, "dweight"),
        "dbias": operands.vector_view(dbias, "dbias"),
        **saved_placement(saved, gradients),
    }


def saved_placement(saved: Saved[A], gradients: Gradients[A] | None = None) -> dict[str, Any]:
    """Return where the call runs; during a capture, keep its memory as long as `saved`.

    That includes gradients, because a layer may add them to its own and drop them.
    """
    operands = saved.operands
    where = operands.placement(saved.num_threads, saved.comm, status=not saved.frozen)
    operands.keep_for_graph((where["workspace"], gradients))
    return where


def check_flag(value: Any, name: str) -> None:
    if not isinstance(value, int) or value not in (0, 1):
        raise ArgumentTypeError(f"{name}: got {value!r}, expected True or False")


def check_communicator(comm: Any) -> None:
    if not isinstance(comm, Communicator):
        raise ArgumentTypeError(
            f"comm: got {type(comm).__name__}, expected a syncnorm.Communicator or None; make one"
            " with syncnorm.comm, such as from_mpi(comm)"
        )


def check_saved(saved: Any) -> None:
    if not isinstance(saved, Saved):
        raise ArgumentTypeError(
            f"saved: got {type(saved).__name__}, expected the second result of a forward pass:"
            " y, saved = forward(x)"
        )
