"""The phases of batch normalization, for a layer of one's own over a sum of one's own.

Forward: moments, the sum of its wire over the group, normalize. Backward: grad_moments, the sum of
its wire, grad_input. sum_over sums along an axis of a mesh; wires that were gathered or made on one
device are summed by add_up. group_size is the number of ranks in a sum. Every rank takes part in
all sums, also one whose mask lets nothing count.

What the functions share:
  x         any shape with the channels on `axis`; float16, bfloat16, float32 or float64. y,
            residual, dy and the gradients of x and residual: x's shape and dtype.
  vectors   weight, bias and the running statistics: (C,); any mix of float16, bfloat16 and float32,
            float32 or float64 where x is float64.
  wires     float64, or without x64 their bits: uint32 of shape (length, 2). What they hold stands
            in docs/mathematics.md.
  settings  what is computed, the same in all phases.
  tag       a number that names the call, the same in all phases and on all ranks, below 2**63.
  group_axes  the mesh axes along which the group's ranks lie, for shard_map with check_vma: results
            that all ranks share are then known to be alike along them.

The functions have no derivatives: call them in a jax.custom_vjp. Shapes that do not fit together
raise InvalidArgumentError (a ValueError) while tracing; what the core finds out, such as ranks with
different tags, is an error of the computation (jax.errors.JaxRuntimeError) on the CPU, and on CUDA
devices, for ranks that disagree, results that are NaN.
"""

from __future__ import annotations

from jax import Array

from syncnorm.settings import Settings

from .calls import call_phase
from .form import Form, result
from .statistics import RunningStatistics, counter_bits, counter_value
from .wires import AxisName, axes_of, doubles

DEFAULT = Settings()


def moments(
    x: Array,
    settings: Settings = DEFAULT,
    *,
    axis: int = -1,
    mask: Array | None = None,
    tag: int = 0,
) -> tuple[Array, Array | None]:
    """Forward, phase 1: the statistics of this rank.

    mask: bool or uint8, x's shape without the channels, or with 1 in their place; sizes of 1 are
    broadcast. 0: the position does not count.

    Returns the wire of 2C + 4 values, to be summed; and where centring is on (for float64 x, unless
    settings say otherwise) the C variances that center reads, else None.
    """
    form = Form.of(x, axis)
    sizes = form.sizes(settings)
    results = {"wire": doubles(sizes.wire)}
    if sizes.center_wire:
        results["local_var"] = doubles(form.channels)
    operands = {"x": form.flat(x, "x"), "mask": form.mask(mask)}
    made = call_phase("moments", form, settings, operands, results, tag=tag)
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
    """Forward, phase 2, where moments gave local_var: makes the variance more accurate.

    Returns a second wire, whose sum over the group is the center_total of the other phases.
    """
    form = Form.of(x, axis)
    operands = {"x": form.flat(x, "x"), "wire": wire, "total": total, "local_var": local_var}
    results = {"center_wire": doubles(form.sizes(settings).center_wire)}
    made = call_phase("center", form, settings, operands, results, tag=tag, group_size=group_size)
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
    """Forward, phase 3: activation((x - mean) * invstd * weight + bias [+ residual]).

    center_total: the sum of what center gave, where that was called.

    Returns y, and saved, 3C + 2 values of float64, for the backward phases.
    """
    form = Form.of(x, axis)
    operands = {
        **_normalizing(form, x, weight, bias, residual),
        "wire": wire,
        "total": total,
        "center_total": center_total,
    }
    results = {"y": form.like_x(), "saved": doubles(form.sizes(settings).saved)}
    made = call_phase(
        "normalize", form, settings, operands, results, tag=tag, group_size=group_size
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
    """The running statistics after this batch; as they were if the whole group is empty.

    Of x only the shape and dtype count. The rank-local variance factors with masks give each rank
    statistics of its own: leave group_axes out there.
    """
    form = Form.of(x, axis)
    statistics = {
        "running_mean": form.vector(running.mean, "running.mean"),
        "running_var": form.vector(running.var, "running.var"),
        "num_batches_tracked": counter_bits(running.num_batches_tracked),
    }
    updated = {name: array for name, array in statistics.items() if array is not None}
    others = {"x": form.flat(x, "x"), "wire": wire, "total": total, "center_total": center_total}
    made = call_phase(
        "update_running",
        form,
        settings,
        {**others, **updated},
        {name: result(array.shape, array.dtype) for name, array in updated.items()},
        tag=tag,
        updated=list(updated),
        alike=dict.fromkeys(updated, frozenset(axes_of(group_axes))),
        group_size=group_size,
    )
    batches = counter_value(made.get("num_batches_tracked"), running.num_batches_tracked)
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
    """As normalize, with the running statistics and on this rank alone."""
    form = Form.of(x, axis)
    operands = {
        **_normalizing(form, x, weight, bias, residual),
        "running_mean": form.vector(running.mean, "running.mean"),
        "running_var": form.vector(running.var, "running.var"),
    }
    results = {"y": form.like_x(), "saved": doubles(form.sizes(settings).saved)}
    made = call_phase("infer", form, settings, operands, results, tag=0)
    return made["y"].reshape(x.shape), made["saved"]


def _normalizing(
    form: Form, x: Array, weight: Array | None, bias: Array | None, residual: Array | None
) -> dict[str, Array | None]:
    return {
        "x": form.flat(x, "x"),
        "weight": form.vector(weight, "weight"),
        "bias": form.vector(bias, "bias"),
        "residual": form.flat(residual, "residual"),
    }
