"""batch_norm: synchronized along mesh axes, composed of the public phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import ArgumentTypeError, InvalidArgumentError
from syncnorm.settings import Choices, Settings, core_options, wrong_type
from syncnorm.tags import constant_tag, layer_tag

from .derivatives import (
    Inputs,
    StaticArgs,
    exchange_wires,
    infer,
    match_varying_axes,
    normalize,
    update_running,
)
from .layout import Layout
from .running_statistics import RunningStatistics
from .wires import AxisName, axis_names, index_groups

if TYPE_CHECKING:
    from typing_extensions import Unpack


def batch_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running: RunningStatistics | None = None,
    *,
    axis_name: AxisName = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    axis: int = -1,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    residual: Array | None = None,
    mask: Array | None = None,
    name: str | None = None,
    **choices: Unpack[Choices],
) -> tuple[Array, RunningStatistics | None]:
    """Compute activation(batch_norm(x)*weight + bias + residual), and the new running statistics.

    In training, x is normalized with the statistics of the batch over all ranks along axis_name. In
    evaluation it is normalized with `running`, without communication.

    x, weight, bias and residual have first derivatives in reverse mode. With the default
    grad_reduction="local", jax.grad returns what it returns for any other function: for weights
    that shard_map replicates, the sum over the devices. docs/jax.md has the other cases.

    Args:
        x: float16, bfloat16, float32 or float64, of any shape.
        weight: (C,), any mix of float16, bfloat16 and float32, or float32 or float64 where x is
            float64; None: 1.
        bias: As weight; None: 0.
        running: The running statistics, with mean and var in the shape and dtypes of weight, or
            None. Required in evaluation.
        axis_name: The name of a mesh axis of shard_map, or of an axis of vmap or pmap; a tuple of
            names; or None for one batch, which jit may have sharded over devices.
        axis_index_groups: Groups of indices along axis_name, of one size, such as
            [[0, 1], [2, 3]]: each group is normalized with statistics of its own.
        axis: The channel axis.
        training: False: normalize with `running` and return it unchanged.
        momentum: running = (1 - momentum)*running + momentum*batch, so that Flax's momentum is
            1 - momentum; None: the average over all batches.
        eps: Added to the variance.
        residual: In x's shape and dtype, added before the activation.
        mask: bool or uint8, in x's shape without the channel axis, or with 1 in its place. Axes of
            length 1 are broadcast. A position where it is 0 does not count in the statistics.
        name: The name of the layer. Ranks in layers of different names get an error.
        **choices: weighting, eps_mode, variance_factor, grad_reduction, centering, activation,
            negative_slope and in_place, as in `syncnorm.Options`. `in_place=True` keeps y for
            backward instead of x.

    Returns:
        y, in the shape and dtype of x, and the new running statistics, or None without `running`.
        No gradient goes through the running statistics.

    Raises:
        InvalidArgumentError: A shape or a setting is not allowed. It is raised while tracing.
        jax.errors.JaxRuntimeError: The core found an error in the computation, such as ranks in
            different calls.
    """
    settings = Settings(eps, momentum, **choices)
    _check_settings(settings)
    inputs = Inputs(
        _array(x, "x"),
        _optional_array(weight, "weight"),
        _optional_array(bias, "bias"),
        _optional_array(residual, "residual"),
    )
    running = None if running is None else _without_gradient(running)
    has_residual = residual is not None
    if not training:
        return _infer(StaticArgs(settings, axis, has_residual=has_residual), inputs, running)
    names = axis_names(axis_name)
    groups = index_groups(axis_index_groups, names)
    if groups and settings.grad_reduction != "local":
        raise InvalidArgumentError(
            f"grad_reduction: got {settings.grad_reduction!r}, expected 'local' because there are"
            " axis_index_groups"
        )
    if not names:  # a group of one: each weighting is the same, and this one fits its shards
        settings = settings._replace(weighting="count")
    args = StaticArgs(
        settings,
        axis,
        names,
        groups,
        group_size=groups.size if groups else jax.lax.axis_size(names) if names else 1,
        tag=constant_tag(layer_tag(name)),
        has_residual=has_residual,
        has_mask=mask is not None,
    )
    mask = _check(args, inputs, _optional_array(mask, "mask"), running)
    return _train(args, inputs, mask, running)


def _infer(
    args: StaticArgs, inputs: Inputs, running: RunningStatistics | None
) -> tuple[Array, RunningStatistics]:
    if running is None:
        raise InvalidArgumentError(
            "running: got None, expected RunningStatistics because training is False"
        )
    return infer(args, match_varying_axes(args, inputs), running), running


def _train(
    args: StaticArgs, inputs: Inputs, mask: Array | None, running: RunningStatistics | None
) -> tuple[Array, RunningStatistics | None]:
    inputs = match_varying_axes(args, inputs, mask)
    values = jax.lax.stop_gradient(inputs.x)
    wires = exchange_wires(args, values, mask)
    if running is not None:
        running = update_running(args, values, wires, running)
    return normalize(args, inputs, mask, wires), running


def _check_settings(settings: Settings) -> None:
    try:
        hash(settings)
    except TypeError as error:
        raise wrong_type(settings) from error
    core_options(settings)  # raises if a setting is not allowed


def _check(
    args: StaticArgs, inputs: Inputs, mask: Array | None, running: RunningStatistics | None
) -> Array | None:
    """Raise for an array that a later phase would refuse, before the ranks exchange wires.

    Returns:
        The mask in x's shape without the channel axis.
    """
    layout = Layout.of(inputs.x, args.axis)
    layout.vector(inputs.weight, "weight")
    layout.vector(inputs.bias, "bias")
    layout.data(inputs.residual, "residual")
    if running is not None:
        layout.vector(running.mean, "running.mean")
        layout.vector(running.var, "running.var")
        count = running.num_batches_tracked
        if count is not None and (count.shape or not jnp.issubdtype(count.dtype, jnp.integer)):
            raise InvalidArgumentError(
                f"running.num_batches_tracked: got shape {count.shape} and {count.dtype.name},"
                " expected shape () and an integer dtype"
            )
        if args.settings.momentum is None and count is None:
            raise InvalidArgumentError(
                "running.num_batches_tracked: got None, expected an integer array because momentum"
                " is None"
            )
    return layout.mask(mask)


def _array(value: Any, name: str) -> Array:
    """Return value as a jax.Array."""
    try:
        if value is not None:
            return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"{name}: got {value!r}, expected an array: {error}") from error
    raise ArgumentTypeError(f"{name}: got None, expected an array")


def _optional_array(value: Any, name: str) -> Array | None:
    return None if value is None else _array(value, name)


def _without_gradient(running: RunningStatistics) -> RunningStatistics:
    if not isinstance(running, RunningStatistics):
        raise ArgumentTypeError(
            f"running: got {type(running).__name__}, expected RunningStatistics or None"
        )
    mean, var, count = running
    arrays = RunningStatistics(
        _array(mean, "running.mean"),
        _array(var, "running.var"),
        _optional_array(count, "running.num_batches_tracked"),
    )
    stopped: RunningStatistics = jax.lax.stop_gradient(arrays)
    return stopped
