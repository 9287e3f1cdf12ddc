"""Runs phases on the shards of arrays that jit has sharded, so that XLA does not gather them.

A foreign function call has no sharding rule: XLA would gather its operands on every device. A phase
works on any part of the batch, so each device runs it on its shard, with the sum of the wires over
the devices. The channels are not sharded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.experimental.custom_partitioning import (
    ArrayMapping,
    SdyShardingRule,
    custom_partitioning,
)
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Arrays = Mapping[str, Array | None]

_LIKE_X = frozenset({"x", "y", "residual", "dy", "dx", "dresidual"})


class Phase(NamedTuple):
    """A phase with its arguments that are no arrays.

    Attributes:
        run: Takes args, the mesh axes over which it sums wires, and its operands by name; returns
            its results by name.
        args: The first argument of run.
        axis: The channel axis of x, counted from 0.
        x64: Whether JAX has float64.
    """

    run: Callable[[Any, tuple[Hashable, ...], Arrays], Arrays]
    args: Hashable
    axis: int
    x64: bool

    def on_shard(self, axes: tuple[Hashable, ...], operands: Arrays) -> dict[str, Array]:
        """Run on the shards of this device; axes: the mesh axes along which they differ."""
        with jax.enable_x64(self.x64):  # XLA may partition long after tracing
            return given_arrays(self.run(self.args, axes, operands))

    def spec(self, name: str, batch: Sequence[Any]) -> PartitionSpec:
        """Return the spec of an array; batch: that of x."""
        entries: Sequence[Any] = ()
        if name in _LIKE_X:
            entries = batch
        elif name == "mask":
            entries = (*batch[: self.axis], *batch[self.axis + 1 :])
        return PartitionSpec(*entries)  # type: ignore[no-untyped-call]

    def batch(self, x: jax.ShapeDtypeStruct | Array, sharding: Any) -> tuple[Any, ...]:
        """Return the mesh axes that shard each axis of x, without those that do not divide it."""
        if not isinstance(sharding, NamedSharding):
            return (None,) * x.ndim
        sizes = dict(sharding.mesh.shape)

        def divides(index: int, entry: Any) -> bool:
            count = 1
            for name in _names(entry):
                count *= sizes[name]
            return index != self.axis and x.shape[index] % count == 0

        spec = (*sharding.spec, *[None] * (x.ndim - len(sharding.spec)))
        return tuple(
            entry if _names(entry) and divides(index, entry) else None
            for index, entry in enumerate(spec)
        )


def run_on_shards(phase: Phase, operands: Arrays) -> dict[str, Array]:
    """Run a phase on arrays that may be sharded.

    Args:
        phase: The phase.
        operands: Arrays by name; those that are None are left out.

    Returns:
        The results by name, without those that are None.
    """
    given = given_arrays(operands)
    if jax.sharding.get_abstract_mesh().manual_axes:  # in shard_map: the arrays are shards
        return phase.on_shard((), given)
    made: dict[str, Array] = _compiled(phase, given)
    return made


@functools.partial(jax.jit, static_argnums=0)
def _compiled(phase: Phase, operands: dict[str, Array]) -> dict[str, Array]:
    run = functools.partial(phase.on_shard, ())
    results = tuple(sorted(jax.eval_shape(run, operands)))
    sharding = jax.typeof(operands["x"]).sharding
    if AxisType.Explicit in sharding.mesh.axis_types:
        return _on_explicit_shards(phase, operands, results)
    partitioned: Any = functools.partial(_partitioned, phase, tuple(sorted(operands)), results)
    # JAX has no batching rule for custom_partitioning.
    one_by_one = jax.custom_batching.sequential_vmap(partitioned)  # type: ignore[no-untyped-call]
    made: dict[str, Array] = one_by_one(operands)
    return made


def _on_explicit_shards(
    phase: Phase, operands: dict[str, Array], results: tuple[str, ...]
) -> dict[str, Array]:
    """Run a phase where the types of arrays have their shardings."""
    sharding = jax.typeof(operands["x"]).sharding
    batch = phase.batch(operands["x"], sharding)
    specs = {name: phase.spec(name, batch) for name in operands}
    shardings = {name: NamedSharding(sharding.mesh, spec) for name, spec in specs.items()}
    mapped = jax.shard_map(
        functools.partial(phase.on_shard, _axes(batch)),
        mesh=sharding.mesh,
        in_specs=(specs,),
        out_specs={name: phase.spec(name, batch) for name in results},
        check_vma=False,
    )
    reshard: Any = jax.reshard
    made: dict[str, Array] = mapped(reshard(operands, shardings))
    for name in results:
        # A result has the type of its operand: y that of x, dweight that of weight.
        source = operands.get(name, operands.get(name.removeprefix("d")))
        if source is None and name in _LIKE_X:
            source = operands["x"]
        if source is not None:
            spec = jax.typeof(source).sharding.spec
            made[name] = reshard(made[name], NamedSharding(sharding.mesh, spec))
    return made


@functools.partial(custom_partitioning, static_argnums=(0, 1, 2))
def _partitioned(
    phase: Phase,
    names: tuple[str, ...],  # noqa: ARG001, of the operands; for _sharding_rule
    results: tuple[str, ...],  # noqa: ARG001
    operands: dict[str, Array],
) -> dict[str, Array]:
    return phase.on_shard((), operands)


def _partition(
    phase: Phase, names: Any, results: Any, mesh: Any, operands: Any, _: Any
) -> tuple[Any, Any, dict[str, Any], tuple[dict[str, Any]]]:
    """Return the function for a shard, and the shardings of its results and operands."""
    x = operands[0]["x"]
    batch = phase.batch(x, x.sharding)
    made, given = (
        {name: NamedSharding(mesh, phase.spec(name, batch)) for name in group}
        for group in (results, names)
    )
    return mesh, functools.partial(phase.on_shard, _axes(batch)), made, (given,)


def _sharding_rule(
    phase: Phase, names: Any, results: Any, _: Any, operand_types: Any, result_types: Any
) -> SdyShardingRule:
    """Return which axes of the arrays are sharded alike: all of x except the channels."""
    replicated: dict[str, None] = {}  # in the order of their first use

    def mapping(name: str, rank: int) -> ArrayMapping:
        axes = [f"x{axis}" for axis in range(rank)]
        if name == "mask":
            axes = [f"x{axis + (axis >= phase.axis)}" for axis in range(rank)]
        elif name not in _LIKE_X:
            axes = [f"{name.replace('_', '')}{axis}" for axis in range(rank)]
            replicated.update(dict.fromkeys(axes))
        else:
            replicated[f"x{phase.axis}"] = None
        return ArrayMapping(*axes)  # type: ignore[no-untyped-call]

    given, made = (
        tuple(mapping(name, type_.rank) for name, type_ in zip(group, types, strict=True))
        for group, types in ((names, operand_types), (results, result_types))
    )
    return SdyShardingRule(given, made, need_replication_factors=tuple(replicated))


def _infer_sharding(*given: Any) -> dict[str, Any]:
    """Return the shardings of the results, for JAX without Shardy."""
    return _partition(*given)[2]


_partitioned.def_partition(  # type: ignore[no-untyped-call]
    _partition, infer_sharding_from_operands=_infer_sharding, sharding_rule=_sharding_rule
)


def given_arrays(arrays: Arrays) -> dict[str, Array]:
    """Return the arrays without those that are None."""
    return {name: array for name, array in arrays.items() if array is not None}


def _names(entry: Any) -> tuple[Hashable, ...]:
    """Return the mesh axes in an entry of a PartitionSpec."""
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _axes(batch: tuple[Any, ...]) -> tuple[Hashable, ...]:
    return tuple(name for entry in batch for name in _names(entry))
