"""normalize and infer as functions with a first derivative in reverse mode, on shards.

In shard_map, JAX requires that a gradient varies along the same mesh axes as its input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import UnsupportedError
from syncnorm.settings import Settings

from . import grad_phases, phases
from .grad_phases import Gradients
from .mesh_axes import mark_optional_varying, mark_varying, varying_axes
from .partition import Arrays, Phase, given_arrays, run_on_shards
from .running_statistics import RunningStatistics
from .wires import IndexGroups, all_reduce, as_one_rank, join

_FORWARD_HASH, _CENTER_HASH, _GRAD_HASH = 2, 0, 0  # where the wires have their hash


class StaticArgs(NamedTuple):
    """The arguments of a call that are no arrays.

    Attributes:
        settings: eps, momentum and the choices.
        axis: The channel axis.
        group_axes: The mesh axes of the group.
        index_groups: The groups of indices along group_axes, or None if there is one group.
        group_size: The number of ranks.
        tag: A number for the call.
        has_residual: Whether there is a residual.
        has_mask: Whether there is a mask.
    """

    settings: Settings
    axis: int
    group_axes: tuple[Hashable, ...] = ()
    index_groups: IndexGroups | None = None
    group_size: int = 1
    tag: int = 0
    has_residual: bool = False
    has_mask: bool = False

    @property
    def common_axes(self) -> tuple[Hashable, ...]:
        """The mesh axes along which the results of the group are the same on all devices."""
        return () if self.index_groups else self.group_axes

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
    """The wires of the forward pass: that of this rank, and the sums over the group.

    total is None, for wire, if the batch is one array.
    """

    wire: Array
    total: Array | None
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
    made = _run(_normalize_phase, args, inputs._asdict() | wires._asdict())
    return made["y"], _backward_inputs(args, inputs, mask, made)


def _normalize_phase(args: StaticArgs, _: Any, operands: Arrays) -> Arrays:
    given: dict[str, Any] = {"total": operands["wire"], **operands}
    y, saved = phases.normalize(
        group_size=args.group_size, settings=args.settings, axis=args.axis, tag=args.tag, **given
    )
    return {"y": y, "saved": saved}


def _normalize_backward(
    args: StaticArgs, kept: _BackwardInputs, dy: Array
) -> tuple[Inputs, None, None]:
    kept, dy = _first_order((kept, dy))
    made = _run(_grad_phases, args, kept._asdict() | {"dy": dy})
    return _cotangents(args, kept, made, dy), None, None


def _grad_phases(args: StaticArgs, shard_axes: tuple[Hashable, ...], operands: Arrays) -> Arrays:
    given: dict[str, Any] = dict(operands)
    mask = given.pop("mask", None)
    options: dict[str, Any] = {"axis": args.axis, "tag": args.tag, **given}
    local = grad_phases.grad_moments(settings=args.settings, **options)
    total = _sum(args, local, shard_axes, _GRAD_HASH)
    gradients = grad_phases.grad_input(
        wire=local if args.group_axes else total,
        total=total,
        group_size=args.group_size,
        settings=args.settings,
        mask=mask,
        residual=args.activates_residual,
        group_axes=args.common_axes,
        **options,
    )
    return _named(gradients)


normalize.defvjp(_normalize_forward, _normalize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def infer(args: StaticArgs, inputs: Inputs, running: RunningStatistics) -> Array:
    """Return y, normalized with the running statistics."""
    return _infer_forward(args, inputs, running)[0]


def _infer_forward(
    args: StaticArgs, inputs: Inputs, running: RunningStatistics
) -> tuple[Array, _BackwardInputs]:
    inputs = _first_order(inputs)
    statistics = {"running_mean": running.mean, "running_var": running.var}
    made = _run(_infer_phase, args, inputs._asdict() | statistics)
    return made["y"], _backward_inputs(args, inputs, None, made)


def _infer_phase(args: StaticArgs, _: Any, operands: Arrays) -> Arrays:
    given: dict[str, Any] = dict(operands)
    running = RunningStatistics(given.pop("running_mean"), given.pop("running_var"))
    y, saved = phases.infer(given.pop("x"), running, args.settings, axis=args.axis, **given)
    return {"y": y, "saved": saved}


def _infer_backward(args: StaticArgs, kept: _BackwardInputs, dy: Array) -> tuple[Inputs, None]:
    kept, dy = _first_order((kept, dy))
    made = _run(_infer_grad_phase, args, kept._asdict() | {"dy": dy})
    return _cotangents(args, kept, made, dy), None


def _infer_grad_phase(
    args: StaticArgs, shard_axes: tuple[Hashable, ...], operands: Arrays
) -> Arrays:
    gradients = grad_phases.infer_backward(
        settings=args.settings,
        axis=args.axis,
        residual=args.activates_residual,
        **operands,  # type: ignore[arg-type]
    )
    if shard_axes:
        gradients = gradients._replace(
            weight=_sum_parameter(gradients.weight, shard_axes),
            bias=_sum_parameter(gradients.bias, shard_axes),
        )
    return _named(gradients)


def _sum_parameter(gradient: Array | None, axes: tuple[Hashable, ...]) -> Array | None:
    if gradient is None:
        return None
    wide = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))
    total: Array = jax.lax.psum(wide, axes)  # type: ignore[no-untyped-call]
    return total.astype(gradient.dtype)


infer.defvjp(_infer_forward, _infer_backward)


def exchange_wires(args: StaticArgs, x: Array, mask: Array | None) -> Wires:
    """Compute the wires of the forward pass, and sum them over the group."""
    made = _run(_exchange_phases, args, {"x": x, "mask": mask})
    return Wires(made["wire"], made.get("total"), made.get("center_total"))


def _exchange_phases(
    args: StaticArgs, shard_axes: tuple[Hashable, ...], operands: Arrays
) -> Arrays:
    x: Any = operands["x"]
    options: dict[str, Any] = {"axis": args.axis, "tag": args.tag}
    local, local_var = phases.moments(x, args.settings, mask=operands.get("mask"), **options)
    total = _sum(args, local, shard_axes, _FORWARD_HASH)
    wires = {"wire": local, "total": total} if args.group_axes else {"wire": total}
    if local_var is None:
        return wires
    center_wire = phases.center(
        x, local, total, local_var, args.group_size, args.settings, **options
    )
    return wires | {"center_total": _sum(args, center_wire, shard_axes, _CENTER_HASH)}


def update_running(
    args: StaticArgs, x: Array, wires: Wires, running: RunningStatistics
) -> RunningStatistics:
    """Return the running statistics after the batch."""
    made = _run(_update_phase, args, {"x": x} | wires._asdict() | _prefixed(running))
    fields: Any = (made.get(name) for name in _prefixed(running))
    return RunningStatistics(*fields)


def _update_phase(args: StaticArgs, _: Any, operands: Arrays) -> Arrays:
    given: dict[str, Any] = {"total": operands["wire"], **operands}
    fields = (f"running_{name}" for name in RunningStatistics._fields)
    running = RunningStatistics(*(given.pop(name, None) for name in fields))
    options: dict[str, Any] = {"axis": args.axis, "group_size": args.group_size}
    if args.settings.variance_factor in ("unbiased", "biased"):
        # Only from the sums, so that JAX knows that the result is the same on all ranks.
        given = _sums_as_one_rank(args, given)
        options = {"axis": 1, "group_size": 1}
    made = phases.update_running(
        running=running,
        settings=args.settings,
        tag=args.tag,
        # The factor depends on the rank's count of values, which differs only with a mask.
        group_axes=None if args.has_mask else args.common_axes,
        **options,
        **given,
    )
    return _prefixed(made)


def _sums_as_one_rank(args: StaticArgs, given: dict[str, Any]) -> dict[str, Any]:
    x, center_total = given["x"], given.get("center_total")
    total = as_one_rank(given["total"], args.group_size, _FORWARD_HASH)
    if center_total is not None:
        center_total = as_one_rank(center_total, args.group_size, _CENTER_HASH)
    channels = jnp.zeros((1, x.shape[args.axis]), x.dtype)  # the values are not read
    return {"x": channels, "wire": total, "total": total, "center_total": center_total}


def _prefixed(running: RunningStatistics) -> dict[str, Array | None]:
    return {f"running_{name}": array for name, array in running._asdict().items()}


def _run(
    phase: Callable[[StaticArgs, tuple[Hashable, ...], Arrays], Arrays],
    args: StaticArgs,
    operands: Arrays,
) -> dict[str, Array]:
    """Run a phase: on the arrays of this rank, or, without axis_name, on shards of one batch."""
    if args.group_axes:
        return given_arrays(phase(args, (), given_arrays(operands)))
    axis = args.axis % operands["x"].ndim  # type: ignore[union-attr]
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return run_on_shards(Phase(phase, args, axis, x64), operands)


def _sum(args: StaticArgs, wire: Array, shard_axes: tuple[Hashable, ...], hash_index: int) -> Array:
    if args.group_axes:
        return all_reduce(wire, args.group_axes, args.index_groups)
    return join(wire, shard_axes, hash_index)


def _named(gradients: Gradients) -> dict[str, Array | None]:
    return {f"d{name}": array for name, array in gradients._asdict().items()}


def _backward_inputs(
    args: StaticArgs, inputs: Inputs, mask: Array | None, made: dict[str, Array]
) -> _BackwardInputs:
    return _BackwardInputs(
        made["y"] if args.settings.in_place else inputs.x,
        inputs.weight,
        inputs.bias,
        made["saved"],
        mask,
        made["y"] if args.activates_residual else None,
    )


def _cotangents(
    args: StaticArgs, kept: _BackwardInputs, made: dict[str, Array], dy: Array
) -> Inputs:
    """Return the gradients, each marked as varying along the axes of its input."""
    passes_residual = args.has_residual and not args.activates_residual
    return Inputs(
        made["dx"],
        mark_optional_varying(made.get("dweight"), varying_axes(kept.weight)),
        mark_optional_varying(made.get("dbias"), varying_axes(kept.bias)),
        dy if passes_residual else made.get("dresidual"),
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
