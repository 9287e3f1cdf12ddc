"""jit over sharded arrays, without shard_map: one batch, which XLA must not gather."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.sharding import AxisType, Mesh, NamedSharding

from syncnorm.jax import RunningStatistics, batch_norm

GENERATOR = np.random.default_rng(11)
SHAPE = (8, 6, 4, 3)
X, RESIDUAL, DY = (GENERATOR.standard_normal(SHAPE, np.float32) for _ in range(3))
WEIGHT, BIAS = (GENERATOR.standard_normal(6, np.float32) for _ in range(2))
MASK = GENERATOR.random((8, 4, 3)) < 0.6
MASK[:2] = False  # a device without a value that counts
BOUND = 2e-5  # float32, values of a few units


def mesh(kind: AxisType = AxisType.Auto) -> Mesh:
    devices = np.array(jax.devices()).reshape(2, 2)
    return Mesh(devices, ("data", "more"), axis_types=(kind, kind))


def step(x: Any, weight: Any, bias: Any, residual: Any, mask: Any, dy: Any, **options: Any) -> Any:
    """Return the gradients, y and the new running statistics."""
    running = RunningStatistics.initial(6)

    def loss(*given: Any) -> Any:
        x, weight, bias, residual = given
        y, new = batch_norm(
            x, weight, bias, running, axis=1, residual=residual, mask=mask, **options
        )
        return (y * dy).sum(), (y, new)

    return jax.grad(loss, (0, 1, 2, 3), has_aux=True)(x, weight, bias, residual)


def sharded(on: Mesh, spec: P, parameters: P) -> list[jax.Array]:
    of_mask = P(*spec[:1], *spec[2:])
    specs = (spec, parameters, parameters, spec, of_mask, spec)
    arrays = (X, WEIGHT, BIAS, RESIDUAL, MASK, DY)
    return [
        jax.device_put(array, NamedSharding(on, one))
        for array, one in zip(arrays, specs, strict=True)
    ]


def compiled_text(function: Any, *given: Any) -> str:
    return jax.jit(function).lower(*given).compile().as_text()


def assert_alike(made: Any, expected: Any) -> None:
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=BOUND, atol=BOUND)


def float64_reference(x: Any, weight: Any, bias: Any) -> Any:
    """Plain JAX in float64, without the activation, the residual and the mask."""
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    channels = (-1, 1, 1)
    return (x - mean) / jnp.sqrt(var + 1e-5) * weight.reshape(channels) + bias.reshape(channels)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("spec", [P(("data", "more")), P("data"), P("data", None, "more")], ids=str)
def test_a_batch_is_not_gathered(spec: P, kind: AxisType, x64: bool) -> None:
    given = sharded(mesh(kind), spec, P())
    function = partial(step, activation="leaky_relu")
    text = compiled_text(function, *given)
    assert "all-gather" not in text
    assert "all-to-all" not in text
    assert len([line for line in text.splitlines() if " all-reduce(" in line]) == 2
    gradients, (y, running) = jax.jit(function)(*given)
    assert y.sharding.is_equivalent_to(given[0].sharding, 4)
    assert gradients[0].sharding.is_equivalent_to(given[0].sharding, 4)
    expected = jax.jit(function)(X, WEIGHT, BIAS, RESIDUAL, MASK, DY)
    assert_alike((gradients, (y, running)), expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_it_is_the_float64_result_of_one_batch(kind: AxisType) -> None:
    x, weight, bias, _, _, dy = sharded(mesh(kind), P(("data", "more")), P())
    loss = lambda x, w, b: (batch_norm(x, w, b, axis=1)[0] * dy).sum()  # noqa: E731
    made = jax.jit(jax.grad(loss, (0, 1, 2)))(x, weight, bias)
    y = jax.jit(partial(batch_norm, axis=1))(x, weight, bias)[0]
    with jax.enable_x64(True):
        given = [np.float64(array) for array in (X, WEIGHT, BIAS)]
        assert_alike(y, float64_reference(*given))
        expected = jax.grad(lambda *a: (float64_reference(*a) * DY).sum(), (0, 1, 2))(*given)
    assert_alike(made, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"centering": "on"},
        {"weighting": "equal", "variance_factor": "unbiased_rank", "grad_reduction": "mean"},
        {"weighting": "batch", "variance_factor": "unbiased_local", "grad_reduction": "sum"},
        {"eps_mode": "max", "variance_factor": "biased", "activation": "elu"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_sharded_batch_is_a_group_of_one(options: dict[str, Any], kind: AxisType) -> None:
    """Whatever the choices say of ranks."""
    function = partial(step, **options)
    made = jax.jit(function)(*sharded(mesh(kind), P("data"), P()))
    assert_alike(made, jax.jit(function)(X, WEIGHT, BIAS, RESIDUAL, MASK, DY))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_evaluation_is_not_gathered(kind: AxisType) -> None:
    def function(*given: Any) -> Any:
        *others, _, dy = given
        return step(*others, None, dy, training=False, activation="relu")

    given = sharded(mesh(kind), P(("data", "more")), P())
    assert "all-gather" not in compiled_text(function, *given)
    made = jax.jit(function)(*given)
    assert_alike(made, jax.jit(function)(X, WEIGHT, BIAS, RESIDUAL, MASK, DY))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize(
    ("spec", "parameters"), [(P("data", "more"), P("more")), (P("data"), P("data"))], ids=str
)
def test_sharded_channels_and_parameters_are_gathered(
    spec: P, parameters: P, kind: AxisType
) -> None:
    """The channels only, not the batch."""
    made = jax.jit(step)(*sharded(mesh(kind), spec, parameters))
    assert_alike(made, jax.jit(step)(X, WEIGHT, BIAS, RESIDUAL, MASK, DY))
    if kind == AxisType.Explicit:
        assert made[0][1].sharding.spec == parameters


def test_a_batch_that_the_devices_do_not_divide() -> None:
    x = GENERATOR.standard_normal((10, 3, 5), np.float32)
    sharding = NamedSharding(mesh(), P(("data", "more")))

    def function(x: Any) -> Any:
        return batch_norm(jax.lax.with_sharding_constraint(x, sharding) * 2, axis=1)[0]

    assert_alike(jax.jit(function)(x), batch_norm(2 * x, axis=1)[0])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_without_jit(kind: AxisType) -> None:
    x, *_ = sharded(mesh(kind), P(("data", "more")), P())
    y, _ = batch_norm(x, WEIGHT, BIAS, axis=1)
    assert y.sharding.is_equivalent_to(x.sharding, 4)
    assert_alike(y, batch_norm(X, WEIGHT, BIAS, axis=1)[0])


def test_scan_remat_and_vmap_do_not_gather() -> None:
    def deep(x: Any) -> Any:
        block = jax.checkpoint(lambda h: batch_norm(h, WEIGHT, BIAS, axis=1)[0])
        return (jax.lax.scan(lambda h, _: (block(h) + x, None), x, None, length=3)[0] * DY).sum()

    def independent(x: Any) -> Any:
        norm = lambda weight: batch_norm(x, weight, axis=1)[0]  # noqa: E731
        return (jax.vmap(norm)(jnp.stack([WEIGHT, BIAS])) * DY).sum()

    x, *_ = sharded(mesh(), P(("data", "more")), P())
    for function in (deep, independent):
        gradient = jax.grad(function)
        assert "all-gather" not in compiled_text(gradient, x)
        assert_alike(jax.jit(gradient)(x), jax.jit(gradient)(X))


def test_inside_of_shard_map_over_some_axes() -> None:
    def on_one(x: Any) -> Any:
        return batch_norm(x, axis=1, axis_name="data")[0]

    x, *_ = sharded(mesh(), P(("data", "more")), P())
    specs = {"in_specs": P("data"), "out_specs": P("data"), "axis_names": {"data"}}
    mapped = jax.jit(jax.shard_map(on_one, mesh=mesh(), **specs))
    assert_alike(mapped(x), batch_norm(X, axis=1)[0])


def test_compiled_where_x64_is_not_what_it_was_while_tracing() -> None:
    x, *_ = sharded(mesh(), P("data"), P())
    function = lambda x: batch_norm(x, axis=1)[0]  # noqa: E731
    with jax.enable_x64(True):
        lowered = jax.jit(function).lower(x)
    compiled = lowered.compile()
    with jax.enable_x64(True):
        assert_alike(compiled(x), function(X))


def test_without_shardy() -> None:
    x, *_ = sharded(mesh(), P("data"), P())
    gradient = jax.grad(lambda x: (batch_norm(x, axis=1)[0] * DY).sum())
    expected = jax.jit(gradient)(X)
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        text, made = compiled_text(gradient, x), jax.jit(gradient)(x)
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    assert "all-gather" not in text
    assert_alike(made, expected)
