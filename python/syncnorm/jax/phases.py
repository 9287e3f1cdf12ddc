"""The forward phases, for custom layers with a custom all-reduce.

Forward: `moments`, the sum of its wire over the group, `normalize`. Backward: `grad_moments`, the
sum of its wire, `grad_input`. `sum_over` is the all-reduce along a mesh axis; `add_up` sums wires
that are on one device. Every rank takes part in all sums, also with a mask that is 0 everywhere.

Common arguments:
  x         any shape with the channels on `axis`; float16, bfloat16, float32 or float64. y,
            residual, dy and the gradients of x and residual: x's shape and dtype.
  vectors   weight, bias and the running statistics: (C,); any mix of float16, bfloat16 and float32,
            float32 or float64 where x is float64.
  wires     float64 vectors, or without x64 their bits: uint32 of shape (length, 2). Their contents
            are in docs/mathematics.md.
  settings  the same in all phases of a call.
  group_size  the number of ranks in a sum.
  tag       a number for the call, the same in all phases and on all ranks, below 2**63.
  group_axes  the mesh axes of the group, for shard_map with check_vma: marks results that are the
            same on all ranks as invariant along them.

The phases have no derivatives: call them in a jax.custom_vjp. While tracing, shapes that do not fit
raise InvalidArgumentError. Errors that the core finds, such as ranks with different tags, are a
jax.errors.JaxRuntimeError of the computation on the CPU; on CUDA devices they make the results NaN.
"""

from __future__ import annotations

from jax import Array

from syncnorm.settings import Settings

from .ffi import call_phase
from .layout import Layout, result
from .running_statistics import RunningStatistics, counter_from_bits, counter_to_bits
from .wires import AxisName, axis_names, float64_result

DEFAULT = Settings()


def moments(
    x: Array,
    settings: Settings = DEFAULT,
    *,
    axis: int = -1,
    mask: Array | None = None,
    tag: int = 0,
) -> tuple[Array, Array | None]:
    """Compute the wire of this rank: forward, phase 1.

    Args:
        x: The input of this rank.
        settings: eps, momentum and the choices.
        axis: The channel axis.
        mask: bool or uint8, in x's shape without the channel axis, or with 1 in its place. Axes of
            length 1 are broadcast. 0: the position does not count.
        tag: A number for the call.

    Returns:
        The wire, 2C + 4 values, and the C local variances for `center`, or None without centering,
        which is the default for x other than float64.

    Raises:
        InvalidArgumentError: axis, mask or a setting is not allowed.
    """
    layout = Layout.of(x, axis)
    sizes = layout.sizes(settings)
    results = {"wire": float64_result(sizes.wire)}
    if sizes.center_wire:
        results["local_var"] = float64_result(layout.channels)
    operands = {"x": layout.data(x, "x"), "mask": layout.mask(mask)}
    made = call_phase("moments", layout, settings, operands, results, tag=tag)
    return made["wire"], made.get("local_var")


def center(
    x: Array,
    wire: Array,
    total: Array,
    local_var: Array,
    group_size: int,
    settings: Settings = DEFAULT,
    *,
    axis: int = -1,
    tag: int = 0,
) -> Array:
    """Compute the wire for centering: forward, phase 2, only if `moments` gave local_var.

    Args:
        x: As in `moments`. Its values are not read.
        wire: 2C + 4 values, of this rank.
        total: 2C + 4 values, the sum of the wires of all ranks.
        local_var: C values, of this rank.
        group_size: The number of ranks.
        settings: As in `moments`.
        axis: The channel axis.
        tag: As in `moments`.

    Returns:
        A wire, C + 2 values rounded up to an even length. Its sum over all ranks is the
        center_total of `normalize` and `update_running`.

    Raises:
        InvalidArgumentError: axis or a setting is not allowed.
    """
    layout = Layout.of(x, axis)
    operands = {"x": layout.data(x, "x"), "wire": wire, "total": total, "local_var": local_var}
    results = {"center_wire": float64_result(layout.sizes(settings).center_wire)}
    made = call_phase("center", layout, settings, operands, results, tag=tag, group_size=group_size)
    return made["center_wire"]


def normalize(
    x: Array,
    wire: Array,
    total: Array,
    group_size: int,
    settings: Settings = DEFAULT,
    *,
    axis: int = -1,
    center_total: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    residual: Array | None = None,
    tag: int = 0,
) -> tuple[Array, Array]:
    """Compute activation((x - mean)*invstd*weight + bias [+ residual]): forward, phase 3.

    Args:
        x: As in `moments`.
        wire: 2C + 4 values, of this rank.
        total: 2C + 4 values, the sum of the wires of all ranks.
        group_size: The number of ranks.
        settings: As in `moments`.
        axis: The channel axis.
        center_total: The sum of the results of `center`; required with centering.
        weight: (C,); None: 1.
        bias: (C,); None: 0.
        residual: In x's shape and dtype.
        tag: As in `moments`.

    Returns:
        y, in the shape and dtype of x, and saved, 3C + 2 float64 values, for the backward phases.

    Raises:
        InvalidArgumentError: A shape, a dtype or a setting is not allowed.
    """
    layout = Layout.of(x, axis)
    operands = {
        **_forward_operands(layout, x, weight, bias, residual),
        "wire": wire,
        "total": total,
        "center_total": center_total,
    }
    results = {"y": layout.data_result(), "saved": float64_result(layout.sizes(settings).saved)}
    made = call_phase(
        "normalize", layout, settings, operands, results, tag=tag, group_size=group_size
    )
    return made["y"].reshape(x.shape), made["saved"]


def update_running(
    x: Array,
    wire: Array,
    total: Array,
    group_size: int,
    running: RunningStatistics,
    settings: Settings = DEFAULT,
    *,
    axis: int = -1,
    center_total: Array | None = None,
    tag: int = 0,
    group_axes: AxisName = None,
) -> RunningStatistics:
    """Compute the running statistics after this batch.

    They are unchanged if no rank has values that count.

    Args:
        x: As in `moments`. Its values are not read.
        wire: As in `normalize`, and so are total, group_size and center_total.
        running: The running statistics before this batch.
        settings: As in `moments`.
        axis: The channel axis.
        tag: As in `moments`.
        group_axes: The mesh axes of the group. Leave it out if variance_factor is rank-local and
            there is a mask: then the running variance differs from rank to rank.

    Returns:
        The new running statistics, in the dtypes of the old ones.

    Raises:
        InvalidArgumentError: A shape, a dtype or a setting is not allowed.
    """
    layout = Layout.of(x, axis)
    statistics = {
        "running_mean": layout.vector(running.mean, "running.mean"),
        "running_var": layout.vector(running.var, "running.var"),
        "num_batches_tracked": counter_to_bits(running.num_batches_tracked),
    }
    updated = {name: array for name, array in statistics.items() if array is not None}
    sums = {"wire": wire, "total": total, "center_total": center_total}
    made = call_phase(
        "update_running",
        layout,
        settings,
        {"x": layout.data(x, "x"), **sums, **updated},
        {name: result(array.shape, array.dtype) for name, array in updated.items()},
        tag=tag,
        updated=list(updated),
        invariant=dict.fromkeys(updated, frozenset(axis_names(group_axes))),
        group_size=group_size,
    )
    batches = counter_from_bits(made.get("num_batches_tracked"), running.num_batches_tracked)
    return RunningStatistics(made["running_mean"], made["running_var"], batches)


def infer(
    x: Array,
    running: RunningStatistics,
    settings: Settings = DEFAULT,
    *,
    axis: int = -1,
    weight: Array | None = None,
    bias: Array | None = None,
    residual: Array | None = None,
) -> tuple[Array, Array]:
    """Normalize x with the running statistics, on this rank alone.

    Args:
        x: As in `normalize`, and so are axis, weight, bias and residual.
        running: The running statistics.
        settings: eps, momentum and the choices.

    Returns:
        y, in the shape and dtype of x, and saved, 3C + 2 float64 values, for `infer_backward`.

    Raises:
        InvalidArgumentError: A shape, a dtype or a setting is not allowed.
    """
    layout = Layout.of(x, axis)
    operands = {
        **_forward_operands(layout, x, weight, bias, residual),
        "running_mean": layout.vector(running.mean, "running.mean"),
        "running_var": layout.vector(running.var, "running.var"),
    }
    results = {"y": layout.data_result(), "saved": float64_result(layout.sizes(settings).saved)}
    made = call_phase("infer", layout, settings, operands, results, tag=0)
    return made["y"].reshape(x.shape), made["saved"]


def _forward_operands(
    layout: Layout, x: Array, weight: Array | None, bias: Array | None, residual: Array | None
) -> dict[str, Array | None]:
    return {
        "x": layout.data(x, "x"),
        "weight": layout.vector(weight, "weight"),
        "bias": layout.vector(bias, "bias"),
        "residual": layout.data(residual, "residual"),
    }
