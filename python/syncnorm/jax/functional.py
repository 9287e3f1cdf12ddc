"""Batch normalization synchronized along mesh axes, composed of the public phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import InvalidArgumentError
from syncnorm.settings import Choices, Settings, constant_tag, core_options

from . import phases
from .derivatives import Inputs, Plan, Sums, alike, infer, normalize
from .statistics import RunningStatistics
from .wires import AxisName, axes_of, sum_over

if TYPE_CHECKING:
    from typing_extensions import Unpack


def batch_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running: RunningStatistics | None = None,
    *,
    axis_name: AxisName = None,
    axis: int = -1,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    residual: Array | None = None,
    mask: Array | None = None,
    name: str | None = None,
    **choices: Unpack[Choices],
) -> tuple[Array, RunningStatistics | None]:
    """activation(batch_norm(x) * weight + bias + residual), and the new running statistics.

    In training with the statistics of the batch over all ranks along axis_name: the name of a mesh
    axis of shard_map (or of an axis of vmap or pmap), a tuple of them, or None for this rank alone.
    Otherwise with `running`, which is returned as it is, and no rank talks to another.

    x: any shape, float16, bfloat16, float32 or float64; axis: the one with the channels. weight,
    bias: (C,) or None; any mix of float16, bfloat16 and float32, float32 or float64 where x is
    float64. running: updated if given; running = (1 - momentum)*running + momentum*batch (Flax's
    momentum is 1 - this), and momentum=None is the average over all batches. residual: x's shape
    and dtype. mask: bool or uint8, x's shape without the channels or with 1 in their place, where
    sizes of 1 are broadcast; 0: the position does not count in the statistics. choices: those of
    syncnorm.Options; in_place keeps y for the backward pass in place of x. name: of the layer;
    ranks that are in layers of different names get an error.

    x, weight, bias and residual have first derivatives, in reverse mode. With
    grad_reduction="local" (the default) jax.grad gives what it gives for any other function: for
    weights that shard_map replicates, the sum over the devices, once. docs/jax.md has the other
    cases. No gradient goes through the running statistics.

    Raises InvalidArgumentError (a ValueError) for shapes and choices that can never be right, while
    tracing. Errors of the computation: see syncnorm.jax.phases.
    """
    settings = Settings(eps, momentum, **choices)
    core_options(settings)  # refuses what is not allowed
    inputs = Inputs(jnp.asarray(x), *(_optional_array(one) for one in (weight, bias, residual)))
    running = None if running is None else _without_gradient(running)
    if not training:
        return _infer(Plan(settings, axis, has_residual=residual is not None), inputs, running)
    axes = axes_of(axis_name)
    plan = Plan(
        settings,
        axis,
        axes,
        jax.lax.axis_size(axes) if axes else 1,
        constant_tag(name),
        residual is not None,
    )
    return _train(plan, inputs, _optional_array(mask), running)


def _infer(
    plan: Plan, inputs: Inputs, running: RunningStatistics | None
) -> tuple[Array, RunningStatistics]:
    if running is None:
        raise InvalidArgumentError("running: got None, needed where training is False")
    return infer(plan, alike(plan, inputs), running), running


def _train(
    plan: Plan, inputs: Inputs, mask: Array | None, running: RunningStatistics | None
) -> tuple[Array, RunningStatistics | None]:
    inputs = alike(plan, inputs, mask)
    values = jax.lax.stop_gradient(inputs.x)
    sums = _sums(plan, values, mask)
    if running is not None:
        running = _updated(plan, values, mask, sums, running)
    return normalize(plan, inputs, mask, sums), running


def _sums(plan: Plan, x: Array, mask: Array | None) -> Sums:
    options: dict[str, Any] = {"axis": plan.axis, "tag": plan.tag}
    wire, local_var = phases.moments(x, plan.settings, mask=mask, **options)
    total = sum_over(wire, plan.group_axes)
    if local_var is None:
        return Sums(wire, total, None)
    wires = wire, total, local_var
    center_wire = phases.center(x, *wires, plan.group_size, plan.settings, **options)
    return Sums(wire, total, sum_over(center_wire, plan.group_axes))


def _updated(
    plan: Plan, x: Array, mask: Array | None, sums: Sums, running: RunningStatistics
) -> RunningStatistics:
    if plan.settings.momentum is None and running.num_batches_tracked is None:
        raise InvalidArgumentError(
            "running.num_batches_tracked: got None, needed where momentum is None"
        )
    # The other factors depend on the rank's own count, which only a mask makes another one.
    same = plan.settings.variance_factor in ("unbiased", "biased") or mask is None
    return phases.update_running(
        x,
        sums.wire,
        sums.total,
        plan.group_size,
        running,
        plan.settings,
        axis=plan.axis,
        center_total=sums.center_total,
        tag=plan.tag,
        group_axes=plan.group_axes if same else None,
    )


def _optional_array(value: Any) -> Array | None:
    return None if value is None else jnp.asarray(value)


def _without_gradient(running: RunningStatistics) -> RunningStatistics:
    arrays = jax.tree.map(jnp.asarray, running)
    stopped: RunningStatistics = jax.lax.stop_gradient(arrays)
    return stopped
