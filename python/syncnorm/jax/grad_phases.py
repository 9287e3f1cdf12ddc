"""The backward phases. The module docstring of phases.py explains their common arguments."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array, ShapeDtypeStruct

from syncnorm.settings import Settings

from .ffi import call_phase
from .layout import Layout, result
from .phases import DEFAULT
from .wires import AxisName, axis_names, float64_result


class Gradients(NamedTuple):
    """The gradients of the inputs of a normalization, each in the shape and dtype of its input.

    Attributes:
        x: The gradient of x.
        weight: The gradient of weight, or None without a weight.
        bias: The gradient of bias, or None without a bias.
        residual: The gradient of the residual, or None if it was not requested.
    """

    x: Array
    weight: Array | None
    bias: Array | None
    residual: Array | None


def grad_moments(
    x: Array,
    dy: Array,
    saved: Array,
    settings: Settings = DEFAULT,
    *,
    axis: int = -1,
    weight: Array | None = None,
    bias: Array | None = None,
    y: Array | None = None,
    tag: int = 0,
) -> Array:
    """Compute the wire of this rank for the gradients: backward, phase 1.

    Args:
        x: The input of `normalize`, or its y if settings.in_place.
        dy: The gradient of y, in its shape and dtype.
        saved: The second result of `normalize`, 3C + 2 float64 values.
        settings: As in the forward phases.
        axis: The channel axis.
        weight: As in `normalize`.
        bias: As in `normalize`.
        y: The first result of `normalize` if there was both a residual and an activation, else
            None.
        tag: As in the forward phases.

    Returns:
        The wire, 2C + 2 values.

    Raises:
        InvalidArgumentError: A shape, a dtype or a setting is not allowed.
    """
    layout = Layout.of(x, axis)
    operands = _backward_operands(layout, x, dy, saved, weight, bias, y)
    results = {"wire": float64_result(layout.sizes(settings).grad_wire)}
    return call_phase("grad_moments", layout, settings, operands, results, tag=tag)["wire"]


def grad_input(
    x: Array,
    dy: Array,
    saved: Array,
    wire: Array,
    total: Array,
    group_size: int,
    settings: Settings = DEFAULT,
    *,
    axis: int = -1,
    weight: Array | None = None,
    bias: Array | None = None,
    mask: Array | None = None,
    y: Array | None = None,
    residual: bool = False,
    tag: int = 0,
    group_axes: AxisName = None,
) -> Gradients:
    """Compute the gradients from the wires: backward, phase 2.

    Args:
        x: As in `grad_moments`, and so are all arguments that are not listed here.
        wire: 2C + 2 values, of this rank.
        total: 2C + 2 values, the sum of the wires of all ranks.
        group_size: The number of ranks.
        mask: As in `moments`.
        residual: Whether to compute the gradient of the residual.
        group_axes: The mesh axes of the group. With a grad_reduction other than "local" the
            gradients of weight and bias are invariant along them.

    Returns:
        The gradients. settings.grad_reduction says whether those of weight and bias are of this
        rank, or the sum or mean over all ranks.

    Raises:
        InvalidArgumentError: A shape, a dtype or a setting is not allowed.
    """
    layout = Layout.of(x, axis)
    operands = {
        **_backward_operands(layout, x, dy, saved, weight, bias, y),
        "wire": wire,
        "total": total,
        "mask": layout.mask(mask),
    }
    invariant = () if settings.grad_reduction == "local" else ("dweight", "dbias")
    made = call_phase(
        "grad_input",
        layout,
        settings,
        operands,
        _gradient_results(layout, weight, bias, residual),
        tag=tag,
        invariant=dict.fromkeys(invariant, frozenset(axis_names(group_axes))),
        group_size=group_size,
    )
    return _gradients(layout, made)


def infer_backward(
    x: Array,
    dy: Array,
    saved: Array,
    settings: Settings = DEFAULT,
    *,
    axis: int = -1,
    weight: Array | None = None,
    bias: Array | None = None,
    y: Array | None = None,
    residual: bool = False,
) -> Gradients:
    """Compute the gradients of `infer`, on this rank alone.

    Args:
        x: As in `grad_moments`, and so are dy, settings, axis, weight, bias and y.
        saved: The second result of `infer`, 3C + 2 float64 values.
        residual: Whether to compute the gradient of the residual.

    Returns:
        The gradients.

    Raises:
        InvalidArgumentError: A shape, a dtype or a setting is not allowed.
    """
    layout = Layout.of(x, axis)
    operands = _backward_operands(layout, x, dy, saved, weight, bias, y)
    results = _gradient_results(layout, weight, bias, residual)
    made = call_phase("infer_backward", layout, settings, operands, results, tag=0)
    return _gradients(layout, made)


def _backward_operands(
    layout: Layout,
    x: Array,
    dy: Array,
    saved: Array,
    weight: Array | None,
    bias: Array | None,
    y: Array | None,
) -> dict[str, Array | None]:
    return {
        "x": layout.data(x, "x"),
        "dy": layout.data(dy, "dy"),
        "saved": saved,
        "weight": layout.vector(weight, "weight"),
        "bias": layout.vector(bias, "bias"),
        "y": layout.data(y, "y"),
    }


def _gradient_results(
    layout: Layout, weight: Array | None, bias: Array | None, residual: bool
) -> dict[str, ShapeDtypeStruct]:
    results = {"dx": layout.data_result()}
    for name, parameter in (("dweight", weight), ("dbias", bias)):
        if parameter is not None:
            results[name] = result(parameter.shape, parameter.dtype)
    if residual:
        results["dresidual"] = layout.data_result()
    return results


def _gradients(layout: Layout, made: dict[str, Array]) -> Gradients:
    dresidual = made.get("dresidual")
    return Gradients(
        made["dx"].reshape(layout.shape),
        made.get("dweight"),
        made.get("dbias"),
        None if dresidual is None else dresidual.reshape(layout.shape),
    )
