"""The public phases: a layer of one's own, shards of one device, running statistics in use."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_driver import RANKS, arguments, mesh, on_devices, results, run

from support.cases import Case, simple_case
from support.compare import check_training
from support.driver import assert_same_bits
from syncnorm import jax as adapter
from syncnorm.jax import RunningStatistics, Settings

FOUR = (2, 2, 2, 2)
CASES = {
    "plain": simple_case("float32", FOUR, 7, (9,)),
    "residual and activation": simple_case(
        "float32", FOUR, 7, (9,), residual=True, activation="elu", masked="some"
    ),
    "centred": simple_case("bfloat16", FOUR, 7, (9,), layout="last", centering="on"),
    "in place": simple_case("float32", FOUR, 7, (9,), in_place=True, activation="leaky_relu"),
}


def own_layer(case: Case, given: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward, from the phases."""
    x, weight, bias, residual = (given["inputs"][n] for n in ("x", "weight", "bias", "residual"))
    settings = Settings(**case.options)
    same = {"axis": 1 if case.layout == "first" else -1, "tag": 7}
    wire, local_var = adapter.moments(x, settings, mask=given["mask"], **same)
    total = adapter.sum_over(wire, "ranks")
    center_total = None
    if local_var is not None:
        center_wire = adapter.center(x, wire, total, local_var, 4, settings, **same)
        center_total = adapter.sum_over(center_wire, "ranks")
    sums = wire, total, 4
    running = adapter.update_running(
        x, *sums, given["running"], settings, center_total=center_total, **same
    )
    parameters = {"weight": weight, "bias": bias}
    y, saved = adapter.normalize(
        x, *sums, settings, center_total=center_total, residual=residual, **parameters, **same
    )
    has_residual = residual is not None
    kept = {**parameters, "y": y if has_residual else None, **same}
    values = y if settings.in_place else x
    tensors = values, given["dy"], saved
    grad_wire = adapter.grad_moments(*tensors, settings, **kept)
    grad_total = adapter.sum_over(grad_wire, "ranks")
    gradients = adapter.grad_input(
        *tensors,
        grad_wire,
        grad_total,
        4,
        settings,
        mask=given["mask"],
        residual=has_residual,
        **kept,
    )
    return {"y": y, "saved": saved, "running": running, "gradients": gradients._asdict()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_layer_of_the_phases_is_the_layer(x64: bool, case: Case) -> None:
    made = on_devices(lambda given: own_layer(case, given), arguments(case))
    ranks = [results(case, jax.tree.map(lambda a, d=d: a[d], made)) for d in range(4)]
    assert "saved" in ranks[0].out
    check_training(case, ranks)
    names = ("y", "running_mean", "running_var", "dx", "dweight", "dbias", "dresidual")
    assert_same_bits(run(case), ranks, names)


def test_shards_on_one_device(x64: bool) -> None:
    """Of unlike sizes, also none; their wires are summed by add_up."""
    generator = np.random.default_rng(1)
    shards = [generator.standard_normal((n, 5, 3), np.float32) for n in (3, 0, 2)]
    wires = jnp.stack([adapter.moments(shard, axis=1)[0] for shard in shards])
    total = adapter.add_up(wires)
    ys = [
        adapter.normalize(shard, wire, total, len(shards), axis=1)[0]
        for shard, wire in zip(shards, wires, strict=True)
    ]
    expected, _ = adapter.batch_norm(np.concatenate(shards), axis=1)
    np.testing.assert_allclose(np.concatenate(ys), expected, rtol=1e-6, atol=1e-6)


def test_infer_and_its_gradients() -> None:
    x, dy = (np.random.default_rng(seed).standard_normal((4, 3), np.float32) for seed in (1, 2))
    running = RunningStatistics(jnp.array([0.5, 0.0, -1.0]), jnp.array([2.0, 1.0, 0.5]))
    y, saved = adapter.infer(x, running)
    invstd = 1 / np.sqrt(np.asarray(running.var) + 1e-5)
    np.testing.assert_allclose(y, (x - running.mean) * invstd, rtol=1e-6, atol=1e-6)
    gradients = adapter.infer_backward(x, dy, saved, weight=jnp.ones(3))
    np.testing.assert_allclose(gradients.x, dy * invstd, rtol=1e-6)
    np.testing.assert_allclose(gradients.weight, (np.asarray(y) * dy).sum(0), rtol=1e-5)
    assert gradients.bias is None


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8), (0, 8), (3, 1, 8), (3, 5, 1), (2, 3, 0)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_arrays_dense_in_both_layouts(shape: tuple[int, ...], axis: int, x64: bool) -> None:
    """Empty ones, too: the layout of x is decided once."""
    values = np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)
    weight = np.ones(shape[axis], np.float32)

    def loss(x: jax.Array, weight: jax.Array) -> jax.Array:
        return (adapter.batch_norm(x, weight, axis=axis, weighting="batch")[0] ** 2).sum()

    y, _ = adapter.batch_norm(values, weight, axis=axis)
    reduced = tuple(a for a in range(len(shape)) if a != axis % len(shape))
    if values.size:
        mean, var = values.mean(reduced, keepdims=True), values.var(reduced, keepdims=True)
        np.testing.assert_allclose(y, (values - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    dx, dweight = jax.grad(loss, (0, 1))(values, weight)
    assert y.shape == dx.shape == shape
    assert dweight.shape == weight.shape


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)])
def test_ranks_without_data_take_part(shape: tuple[int, ...], x64: bool) -> None:

    @jax.jit
    @partial(jax.shard_map, mesh=mesh(2), in_specs=RANKS, out_specs=RANKS)
    def normalize(x: jax.Array) -> jax.Array:
        return adapter.batch_norm(x, axis_name="ranks")[0]

    assert normalize(np.ones((2 * shape[0], *shape[1:]), np.float32)).shape[1:] == shape[1:]
