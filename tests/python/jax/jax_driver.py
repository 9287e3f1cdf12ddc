"""Runs a case through syncnorm.jax: in shard_map, a CPU device for each shard.

The parameters go in once for each device, so that their gradients come out as each rank reports
them. Results stand in Buffers under the names that support.compare knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from support.buffers import Buffer
from support.cases import Case, Vector
from support.dtypes import decode, encode
from syncnorm.jax import RunningStatistics, batch_norm

RANKS = PartitionSpec("ranks")


@dataclass(frozen=True)
class JaxRank:
    out: dict[str, Buffer]


def mesh(size: int = 4) -> Mesh:
    return Mesh(np.array(jax.devices()[:size]), ("ranks",))


def run(case: Case, *, training: bool = True) -> list[JaxRank]:
    """batch_norm and its gradients, compiled, on as many devices as the case has shards."""

    def work(given: dict[str, Any]) -> dict[str, Any]:
        def layer(inputs: dict[str, Any]) -> Any:
            return batch_norm(
                inputs["x"],
                inputs["weight"],
                inputs["bias"],
                given["running"],
                residual=inputs["residual"],
                mask=given["mask"],
                axis_name="ranks",
                axis=1 if case.layout == "first" else -1,
                training=training,
                **case.options,
            )

        y, backward, running = jax.vjp(layer, given["inputs"], has_aux=True)
        (gradients,) = backward(given["dy"])
        return {"y": y, "running": running, "gradients": gradients}

    made = on_devices(work, arguments(case))
    return [results(case, jax.tree.map(lambda a, d=d: a[d], made)) for d in range(len(case.shards))]


def on_devices(work: Callable[..., Any], arguments: Any) -> Any:
    """work on each device, with its item of all arguments; the results stacked, for NumPy."""

    def on_one(arguments: Any) -> Any:
        made = work(jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], made)

    size = jax.tree.leaves(arguments)[0].shape[0]
    mapped = jax.shard_map(on_one, mesh=mesh(size), in_specs=RANKS, out_specs=RANKS)
    return jax.tree.map(np.asarray, jax.jit(mapped)(arguments))


def arguments(case: Case) -> dict[str, Any]:
    """Everything that the ranks are given, stacked along a first axis."""
    size = len(case.shards)

    def data(name: str) -> np.ndarray | None:
        values = [getattr(shard, name) for shard in case.shards]
        if values[0] is None:
            return None
        return np.stack([array(in_layout(case, one), case.dtype) for one in values])

    def vector(value: Vector | None) -> np.ndarray | None:
        return None if value is None else np.stack([array(value.values, value.dtype)] * size)

    masked = case.shards[0].mask is not None
    running = None
    if case.running_mean is not None:
        batches = None if case.batches is None else np.full(size, case.batches, np.int32)
        statistics = vector(case.running_mean), vector(case.running_var)
        running = RunningStatistics(*statistics, batches)
    return {
        "inputs": {
            "x": data("x"),
            "weight": vector(case.weight),
            "bias": vector(case.bias),
            "residual": data("residual"),
        },
        "dy": data("dy"),
        "mask": np.stack([shard.mask for shard in case.shards]) if masked else None,
        "running": running,
    }


def in_layout(case: Case, values: np.ndarray) -> np.ndarray:
    return values if case.layout == "first" else np.moveaxis(values, 1, -1)


def array(values: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest values of dtype, in an array that JAX takes as it is."""
    storage = np.ascontiguousarray(encode(values, dtype))
    return storage.view(jnp.bfloat16) if dtype == "bfloat16" else storage


def numpy_values(made: np.ndarray) -> np.ndarray:
    """The exact values, whatever the dtype."""
    is_bfloat16 = made.dtype.name == "bfloat16"
    return decode(made.view(np.uint16) if is_bfloat16 else made, made.dtype.name)


def results(case: Case, made: dict[str, Any]) -> JaxRank:
    gradients, running = made["gradients"], made["running"]
    named = {
        "y": made["y"],
        "dx": gradients["x"],
        "dresidual": gradients["residual"],
        "dweight": gradients["weight"],
        "dbias": gradients["bias"],
    }
    if running is not None:
        named |= {"running_mean": running.mean, "running_var": running.var}
        named |= {"num_batches_tracked": running.num_batches_tracked}
    if "saved" in made:  # float64 or its bits
        named["saved"] = made["saved"].reshape(-1).view(np.float64)
    out = {name: buffer(case, name, value) for name, value in named.items() if value is not None}
    return JaxRank(out)


def buffer(case: Case, name: str, made: np.ndarray) -> Buffer:
    values = numpy_values(made)
    if name in ("y", "dx", "dresidual"):
        values = values if case.layout == "first" else np.moveaxis(values, -1, 1)
        return Buffer.of(values, made.dtype.name, case.layout)
    return Buffer.of(values.reshape(-1), made.dtype.name)
