"""normalize and infer as functions with a first derivative in reverse mode.

In shard_map, JAX requires that a gradient varies along the same mesh axes as its input.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
from jax import Array

from syncnorm import UnsupportedError
from syncnorm.settings import Settings

from . import grad_phases, phases
from .grad_phases import Gradients
from .mesh_axes import mark_optional_varying, mark_varying, varying_axes
from .running_statistics import RunningStatistics
from .wires import sum_over


class StaticArgs(NamedTuple):
    """The arguments of a call that are no arrays.

    Attributes:
        settings: eps, momentum and the choices.
        axis: The channel axis.
        group_axes: The mesh axes of the group.
        group_size: The number of ranks.
        tag: A number for the call.
        has_residual: Whether there is a residual.
    """

    settings: Settings
    axis: int
    group_axes: tuple[Hashable, ...] = ()
    group_size: int = 1
    tag: int = 0
    has_residual: bool = False

    @property
    def activates_residual(self) -> bool:
        """Whether the input of an activation includes the residual.

        Then backward needs y, and the gradient of the residual is not dy.
        """
        return self.has_residual and self.settings.activation != "identity"


class Inputs(NamedTuple):
    """The inputs that have gradients."""

    x: Array
    weight: Array | None
    bias: Array | None
    residual: Array | None


class Wires(NamedTuple):
    """The wires of the forward pass: that of this rank, and the sums over the group."""

    wire: Array
    total: Array
    center_total: Array | None


class _BackwardInputs(NamedTuple):
    """The arrays that forward keeps for backward.

    x is y in place; y is None unless args.activates_residual.
    """

    x: Array
    weight: Array | None
    bias: Array | None
    saved: Array
    mask: Array | None
    y: Array | None


def match_varying_axes(args: StaticArgs, inputs: Inputs, mask: Array | None = None) -> Inputs:
    """Mark all inputs as varying along the axes of any of them.

    This makes the gradient of an input that did not vary along an axis the sum along that axis. If
    the core sums the gradients of weight and bias over the group, they are left as they are along
    the axes of the group.
    """
    axes = varying_axes(*inputs, mask)
    parameter_axes = axes
    if args.settings.grad_reduction != "local":
        parameter_axes -= frozenset(args.group_axes)
    return Inputs(
        mark_varying(inputs.x, axes),
        mark_optional_varying(inputs.weight, parameter_axes),
        mark_optional_varying(inputs.bias, parameter_axes),
        mark_optional_varying(inputs.residual, axes),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalize(args: StaticArgs, inputs: Inputs, mask: Array | None, wires: Wires) -> Array:
    """Return y, normalized with the statistics of the group."""
    return _normalize_forward(args, inputs, mask, wires)[0]


def _normalize_forward(
    args: StaticArgs, inputs: Inputs, mask: Array | None, wires: Wires
) -> tuple[Array, _BackwardInputs]:
    inputs = _first_order(inputs)
    y, saved = phases.normalize(
        inputs.x,
        wires.wire,
        wires.total,
        args.group_size,
        args.settings,
        axis=args.axis,
        center_total=wires.center_total,
        weight=inputs.weight,
        bias=inputs.bias,
        residual=inputs.residual,
        tag=args.tag,
    )
    return y, _backward_inputs(args, inputs, mask, y, saved)


def _normalize_backward(
    args: StaticArgs, kept: _BackwardInputs, dy: Array
) -> tuple[Inputs, None, None]:
    kept, dy = _first_order((kept, dy))
    options: dict[str, Any] = {"axis": args.axis, "tag": args.tag}
    options |= {"weight": kept.weight, "bias": kept.bias, "y": kept.y}
    tensors = kept.x, dy, kept.saved
    wire = grad_phases.grad_moments(*tensors, args.settings, **options)
    gradients = grad_phases.grad_input(
        *tensors,
        wire,
        sum_over(wire, args.group_axes),
        args.group_size,
        args.settings,
        **options,
        mask=kept.mask,
        residual=args.activates_residual,
        group_axes=args.group_axes,
    )
    return _cotangents(args, kept, gradients, dy), None, None


normalize.defvjp(_normalize_forward, _normalize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def infer(args: StaticArgs, inputs: Inputs, running: RunningStatistics) -> Array:
    """Return y, normalized with the running statistics."""
    return _infer_forward(args, inputs, running)[0]


def _infer_forward(
    args: StaticArgs, inputs: Inputs, running: RunningStatistics
) -> tuple[Array, _BackwardInputs]:
    inputs = _first_order(inputs)
    y, saved = phases.infer(
        inputs.x,
        running,
        args.settings,
        axis=args.axis,
        weight=inputs.weight,
        bias=inputs.bias,
        residual=inputs.residual,
    )
    return y, _backward_inputs(args, inputs, None, y, saved)


def _infer_backward(args: StaticArgs, kept: _BackwardInputs, dy: Array) -> tuple[Inputs, None]:
    kept, dy = _first_order((kept, dy))
    gradients = grad_phases.infer_backward(
        kept.x,
        dy,
        kept.saved,
        args.settings,
        axis=args.axis,
        weight=kept.weight,
        bias=kept.bias,
        y=kept.y,
        residual=args.activates_residual,
    )
    return _cotangents(args, kept, gradients, dy), None


infer.defvjp(_infer_forward, _infer_backward)


def _backward_inputs(
    args: StaticArgs, inputs: Inputs, mask: Array | None, y: Array, saved: Array
) -> _BackwardInputs:
    return _BackwardInputs(
        y if args.settings.in_place else inputs.x,
        inputs.weight,
        inputs.bias,
        saved,
        mask,
        y if args.activates_residual else None,
    )


def _cotangents(args: StaticArgs, kept: _BackwardInputs, gradients: Gradients, dy: Array) -> Inputs:
    """Return the gradients, each marked as varying along the axes of its input."""
    dx, dweight, dbias, dresidual = gradients
    if args.has_residual and not args.activates_residual:
        dresidual = dy
    return Inputs(
        dx,
        mark_optional_varying(dweight, varying_axes(kept.weight)),
        mark_optional_varying(dbias, varying_axes(kept.bias)),
        dresidual,
    )


@jax.custom_jvp
def _first_order(arrays: Any) -> Any:
    """Return the arrays, and raise if they are differentiated a second time."""
    return arrays


@_first_order.defjvp
def _refuse_second_order(*_: Any) -> Any:
    raise UnsupportedError(
        "got a second derivative of syncnorm.jax.batch_norm, expected first derivatives in reverse"
        " mode, such as jax.grad"
    )
