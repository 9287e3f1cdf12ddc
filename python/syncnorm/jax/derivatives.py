"""normalize and infer with first derivatives, in reverse mode.

What jax.grad asks of a function inside shard_map: a gradient differs along the same mesh axes as
the input that it belongs to.
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
from .statistics import RunningStatistics
from .varying import cast, cast_optional, varying_axes
from .wires import sum_over


class Plan(NamedTuple):
    """What a call computes: all that is not an array."""

    settings: Settings
    axis: int
    group_axes: tuple[Hashable, ...] = ()
    group_size: int = 1
    tag: int = 0
    has_residual: bool = False

    @property
    def adds_before_activation(self) -> bool:
        """Whether the activation is given what x does not tell."""
        return self.has_residual and self.settings.activation != "identity"


class Inputs(NamedTuple):
    """What has a gradient."""

    x: Array
    weight: Array | None
    bias: Array | None
    residual: Array | None


class Sums(NamedTuple):
    """Of the forward pass: this rank's wire, and the group's."""

    wire: Array
    total: Array
    center_total: Array | None


class _Kept(NamedTuple):
    """For the backward pass. x is y in place; y where adds_before_activation."""

    x: Array
    weight: Array | None
    bias: Array | None
    saved: Array
    mask: Array | None
    y: Array | None


def alike(plan: Plan, inputs: Inputs, mask: Array | None = None) -> Inputs:
    """The inputs as ones that differ along the same mesh axes.

    Where one did not differ along an axis, the cast makes its gradient the sum along it. Parameters
    whose gradient the core sums over the group stay as they are along the group's axes.
    """
    everywhere = varying_axes(*inputs, mask)
    of_parameters = everywhere
    if plan.settings.grad_reduction != "local":
        of_parameters -= frozenset(plan.group_axes)
    return Inputs(
        cast(inputs.x, everywhere),
        cast_optional(inputs.weight, of_parameters),
        cast_optional(inputs.bias, of_parameters),
        cast_optional(inputs.residual, everywhere),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalize(plan: Plan, inputs: Inputs, mask: Array | None, sums: Sums) -> Array:
    """y, by the group's sums."""
    return _normalize_forward(plan, inputs, mask, sums)[0]


def _normalize_forward(
    plan: Plan, inputs: Inputs, mask: Array | None, sums: Sums
) -> tuple[Array, _Kept]:
    inputs = _once(inputs)
    y, saved = phases.normalize(
        inputs.x,
        sums.wire,
        sums.total,
        plan.group_size,
        plan.settings,
        axis=plan.axis,
        center_total=sums.center_total,
        weight=inputs.weight,
        bias=inputs.bias,
        residual=inputs.residual,
        tag=plan.tag,
    )
    return y, _keep(plan, inputs, mask, y, saved)


def _normalize_backward(plan: Plan, kept: _Kept, dy: Array) -> tuple[Inputs, None, None]:
    kept, dy = _once((kept, dy))
    options: dict[str, Any] = {"axis": plan.axis, "tag": plan.tag}
    options |= {"weight": kept.weight, "bias": kept.bias, "y": kept.y}
    tensors = kept.x, dy, kept.saved
    wire = grad_phases.grad_moments(*tensors, plan.settings, **options)
    gradients = grad_phases.grad_input(
        *tensors,
        wire,
        sum_over(wire, plan.group_axes),
        plan.group_size,
        plan.settings,
        **options,
        mask=kept.mask,
        residual=plan.adds_before_activation,
        group_axes=plan.group_axes,
    )
    return _as_inputs(plan, kept, gradients, dy), None, None


normalize.defvjp(_normalize_forward, _normalize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def infer(plan: Plan, inputs: Inputs, running: RunningStatistics) -> Array:
    """y, by the running statistics."""
    return _infer_forward(plan, inputs, running)[0]


def _infer_forward(plan: Plan, inputs: Inputs, running: RunningStatistics) -> tuple[Array, _Kept]:
    inputs = _once(inputs)
    y, saved = phases.infer(
        inputs.x,
        running,
        plan.settings,
        axis=plan.axis,
        weight=inputs.weight,
        bias=inputs.bias,
        residual=inputs.residual,
    )
    return y, _keep(plan, inputs, None, y, saved)


def _infer_backward(plan: Plan, kept: _Kept, dy: Array) -> tuple[Inputs, None]:
    kept, dy = _once((kept, dy))
    gradients = grad_phases.infer_backward(
        kept.x,
        dy,
        kept.saved,
        plan.settings,
        axis=plan.axis,
        weight=kept.weight,
        bias=kept.bias,
        y=kept.y,
        residual=plan.adds_before_activation,
    )
    return _as_inputs(plan, kept, gradients, dy), None


infer.defvjp(_infer_forward, _infer_backward)


def _keep(plan: Plan, inputs: Inputs, mask: Array | None, y: Array, saved: Array) -> _Kept:
    return _Kept(
        y if plan.settings.in_place else inputs.x,
        inputs.weight,
        inputs.bias,
        saved,
        mask,
        y if plan.adds_before_activation else None,
    )


def _as_inputs(plan: Plan, kept: _Kept, gradients: Gradients, dy: Array) -> Inputs:
    """The gradients as cotangents, each differing along the axes along which its input does."""
    dx, dweight, dbias, dresidual = gradients
    if plan.has_residual and dresidual is None:  # no activation
        dresidual = dy
    return Inputs(
        dx,
        cast_optional(dweight, varying_axes(kept.weight)),
        cast_optional(dbias, varying_axes(kept.bias)),
        dresidual,
    )


@jax.custom_jvp
def _once(arrays: Any) -> Any:
    """The arrays themselves, for what is differentiated already."""
    return arrays


@_once.defjvp
def _refuse(*_: Any) -> Any:
    raise UnsupportedError(
        "a second derivative of syncnorm.jax.batch_norm was asked for; expected first derivatives"
        " in reverse mode, as of jax.grad"
    )
