"""The backward phases. What the functions share stands in phases.py."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array, ShapeDtypeStruct

from syncnorm.settings import Settings

from .calls import call_phase
from .form import Form, result
from .wires import AxisName, axes_of, doubles

DEFAULT = Settings()


class Gradients(NamedTuple):
    """Of the inputs of a normalization; None for those that it did not have."""

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
    """Backward, phase 1: the gradient sums of this rank.

    x, weight, bias, saved: of the forward pass; with settings.in_place its y as x. y: its output,
    given exactly if there was both a residual and an activation.

    Returns the wire of 2C + 2 values, to be summed.
    """
    form = Form.of(x, axis)
    operands = _differentiating(form, x, dy, saved, weight, bias, y)
    results = {"wire": doubles(form.sizes(settings).grad_wire)}
    return call_phase("grad_moments", form, settings, operands, results, tag=tag)["wire"]


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
    """Backward, phase 2: the gradients, of this rank or as settings.grad_reduction says.

    mask: as in moments; residual: whether there was one; the others as in grad_moments.
    """
    form = Form.of(x, axis)
    operands = {
        **_differentiating(form, x, dy, saved, weight, bias, y),
        "wire": wire,
        "total": total,
        "mask": form.mask(mask),
    }
    results = _gradients(form, weight, bias, residual)
    shared = () if settings.grad_reduction == "local" else ("dweight", "dbias")
    made = call_phase(
        "grad_input",
        form,
        settings,
        operands,
        results,
        tag=tag,
        alike=dict.fromkeys(shared, frozenset(axes_of(group_axes))),
        group_size=group_size,
    )
    return _shaped(form, made)


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
    """The gradients of infer, on this rank alone. Arguments as in grad_input."""
    form = Form.of(x, axis)
    operands = _differentiating(form, x, dy, saved, weight, bias, y)
    results = _gradients(form, weight, bias, residual)
    return _shaped(form, call_phase("infer_backward", form, settings, operands, results, tag=0))


def _differentiating(
    form: Form,
    x: Array,
    dy: Array,
    saved: Array,
    weight: Array | None,
    bias: Array | None,
    y: Array | None,
) -> dict[str, Array | None]:
    return {
        "x": form.flat(x, "x"),
        "dy": form.flat(dy, "dy"),
        "saved": saved,
        "weight": form.vector(weight, "weight"),
        "bias": form.vector(bias, "bias"),
        "y": form.flat(y, "y"),
    }


def _gradients(
    form: Form, weight: Array | None, bias: Array | None, residual: bool
) -> dict[str, ShapeDtypeStruct]:
    results = {"dx": form.like_x()}
    for name, parameter in (("dweight", weight), ("dbias", bias)):
        if parameter is not None:
            results[name] = result(parameter.shape, parameter.dtype)
    if residual:
        results["dresidual"] = form.like_x()
    return results


def _shaped(form: Form, made: dict[str, Array]) -> Gradients:
    dresidual = made.get("dresidual")
    return Gradients(
        made["dx"].reshape(form.shape),
        made.get("dweight"),
        made.get("dbias"),
        None if dresidual is None else dresidual.reshape(form.shape),
    )
