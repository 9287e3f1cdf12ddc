"""syncnorm.flax.linen.BatchNorm beside flax.linen.BatchNorm: the same variables and numbers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from jax import P
from jax.sharding import NamedSharding
from jax_driver import RANKS, mesh

import syncnorm.flax
from syncnorm import InvalidArgumentError
from syncnorm.flax.linen import BatchNorm

GENERATOR = np.random.default_rng(21)
X, DY = (GENERATOR.standard_normal((8, 4, 6, 3), np.float32) * 2 + 0.5 for _ in range(2))
SAMPLES = GENERATOR.random((8, 1, 1, 1)) < 0.6
POSITIONS = GENERATOR.random((8, 4, 6, 1)) < 0.6
VALUES = GENERATOR.random((8, 4, 6, 3)) < 0.6


def some_scale(key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
    return jax.random.uniform(key, shape, dtype, 0.5, 1.5)


def train(layer: Any, x: Any, mask: Any = None) -> Any:
    """Return y, the gradients, the statistics after three steps, and the result with these."""
    variables = layer.init(jax.random.key(3), x, use_running_average=False)

    def loss(params: Any, x: Any, stats: Any) -> Any:
        given = {"batch_stats": stats} | params
        options = {"mutable": ["batch_stats"], "use_running_average": False}
        y, new = layer.apply(given, x, mask=mask, **options)
        return (y.astype(jnp.float32) * DY).sum(), (y, new["batch_stats"])

    params = {name: value for name, value in variables.items() if name == "params"}
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    step = jax.jit(jax.grad(loss, (0, 1) if is_float else 0, has_aux=True))
    stats = variables["batch_stats"]
    for _ in range(3):
        gradients, (y, stats) = step(params, x, stats)
    trained = {"batch_stats": stats} | params
    evaluate = jax.jit(lambda x: layer.apply(trained, x, use_running_average=True))
    return variables, y, gradients, stats, evaluate(x)


def assert_alike(
    made: Any, expected: Any, bound: float = 3e-5, *, same_dtypes: bool = True
) -> None:
    """The same structure, shapes, dtypes and, within a bound, values."""
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype or not same_dtypes
        scale = max(1.0, float(np.abs(np.float64(other)).max()))
        np.testing.assert_allclose(
            np.float64(one), np.float64(other), rtol=bound, atol=bound * scale
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.5, "epsilon": 0.1},
        {"axis": 1},
        {"axis": (1, 2)},
        {"axis": (-1, 1)},
        {"axis": (1, 2, 3)},
        {"use_bias": False},
        {"use_scale": False, "use_bias": False},
        pytest.param(
            {"scale_init": some_scale, "bias_init": nn.initializers.normal()}, id="initializers"
        ),
        {"use_fast_variance": False},
    ],
    ids=str,
)
def test_it_is_flax_s_layer(options: dict[str, Any]) -> None:
    made, expected = (train(layer(**options), X) for layer in (BatchNorm, nn.BatchNorm))
    assert_alike(made, expected)


@pytest.mark.parametrize(
    ("dtype", "options", "bound"),
    [
        ("bfloat16", {}, 2e-2),  # the result is float32, dx bfloat16
        ("bfloat16", {"dtype": jnp.bfloat16}, 2e-2),
        ("float32", {"dtype": jnp.bfloat16}, 2e-2),
        ("float16", {"param_dtype": jnp.float16}, 4e-3),
        ("float16", {"param_dtype": jnp.float16, "force_float32_reductions": False}, 1e-2),
        ("int32", {}, 3e-5),
    ],
    ids=str,
)
def test_dtypes_are_flax_s(dtype: str, options: dict[str, Any], bound: float) -> None:
    x = jnp.asarray(4 * X).astype(dtype)
    made, expected = (train(layer(**options), x) for layer in (BatchNorm, nn.BatchNorm))
    assert_alike(made, expected, bound)


def test_float64_parameters_and_input() -> None:
    """Flax's statistics change to float64 with the first step; ours stay as they are."""
    with jax.enable_x64(True):
        for x, dtype in ((X, np.float64), (np.float64(X), np.float32), (np.float64(X), np.float16)):
            layers = (layer(param_dtype=dtype) for layer in (BatchNorm, nn.BatchNorm))
            made, expected = (train(layer, x) for layer in layers)
            assert_alike(made, expected, same_dtypes=False)
            assert made[1].dtype == expected[1].dtype
            assert made[3]["mean"].dtype == np.float32


@pytest.mark.parametrize("axis", [-1, (1, 3)], ids=str)
@pytest.mark.parametrize(
    "mask", [SAMPLES, POSITIONS, VALUES, np.float32(POSITIONS), VALUES[0]], ids=np.shape
)
def test_masks_are_flax_s(mask: Any, axis: Any) -> None:
    """Also those that differ from channel to channel."""
    made, expected = (train(layer(axis=axis), X, mask) for layer in (BatchNorm, nn.BatchNorm))
    assert_alike(made, expected)


def test_complex_input_is_left_to_flax() -> None:
    x = X + 1j * DY
    options = {"use_running_average": False}
    made, expected = (
        layer(dtype=jnp.complex64, **options).init_with_output(jax.random.key(0), x)
        for layer in (BatchNorm, nn.BatchNorm)
    )
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_variance_does_not_cancel() -> None:
    """Where it differs from Flax's: a mean far from 0."""
    far = np.float32(X + 3e3)
    expected = np.float64(far).var((0, 1, 2))
    options = {"momentum": 0.0, "use_running_average": False}

    def error(layer: Any) -> float:
        variables = layer(**options).init(jax.random.key(0), far)
        _, new = layer(**options).apply(variables, far, mutable=["batch_stats"])
        return float(np.abs(new["batch_stats"]["var"] / expected - 1).max())

    assert error(BatchNorm) < 1e-6
    assert error(nn.BatchNorm) > 1e-3


def network(norm: type[nn.Module]) -> Any:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any, training: bool) -> Any:
            x = nn.Conv(4, (3, 3))(x)
            x = nn.relu(norm(use_running_average=not training)(x))
            return norm(use_running_average=not training, name="last")(x)

    return Block()


@pytest.mark.parametrize("ours_first", [True, False])
def test_checkpoints_load_in_both_directions(ours_first: bool) -> None:
    norms = (BatchNorm, nn.BatchNorm) if ours_first else (nn.BatchNorm, BatchNorm)
    saved, loading = (network(norm) for norm in norms)
    variables = saved.init(jax.random.key(0), X, training=True)
    _, new = saved.apply(variables, X, training=True, mutable=["batch_stats"])
    variables = variables | new
    assert set(variables["batch_stats"]) == {"BatchNorm_0", "last"}
    fresh = loading.init(jax.random.key(1), X, training=True)
    loaded = serialization.from_bytes(fresh, serialization.to_bytes(variables))
    made, expected = (
        loading.apply(loaded, X, training=False),
        saved.apply(variables, X, training=False),
    )
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_it_is_a_flax_layer() -> None:
    assert syncnorm.flax.BatchNorm is BatchNorm
    assert issubclass(BatchNorm, nn.BatchNorm)


def test_initialization_needs_no_axis_and_leaves_the_statistics() -> None:
    layer = BatchNorm(use_running_average=False, axis_name="nowhere")
    stats = layer.init(jax.random.key(0), X)["batch_stats"]
    assert not stats["mean"].any()
    assert (stats["var"] == 1).all()


def step_of(layer: Any) -> Any:
    """Return a step of training: loss, gradients by the variables and x, new statistics."""

    def step(variables: Any, x: Any, dy: Any, mask: Any = None) -> Any:
        def loss(params: Any, x: Any) -> Any:
            given = variables | {"params": params}
            options = {} if mask is None else {"mask": mask}
            y, new = layer.apply(given, x, mutable=["batch_stats"], **options)
            return (y * dy).sum(), new["batch_stats"]

        return jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)

    return step


ONE = nn.BatchNorm(use_running_average=False)
VARIABLES = ONE.init(jax.random.key(0), X)


@pytest.mark.parametrize("masked", [False, True])
def test_in_shard_map_it_is_one_batch(masked: bool, x64: bool) -> None:
    """With a mask, a device has no value that counts: Flax's mean of means would be NaN."""
    mask = POSITIONS.copy()
    mask[:2] = False
    layer = BatchNorm(use_running_average=False, axis_name="ranks")
    given = (VARIABLES, X, DY, mask) if masked else (VARIABLES, X, DY)
    specs = (P(), RANKS, RANKS, RANKS)[: len(given)]
    mapped = jax.shard_map(
        step_of(layer), mesh=mesh(), in_specs=specs, out_specs=((P(), RANKS), P())
    )
    assert_alike(jax.jit(mapped)(*given), step_of(ONE)(*given))


def test_in_pmap_it_is_one_batch() -> None:
    layer = BatchNorm(use_running_average=False, axis_name="ranks")
    mapped = jax.pmap(step_of(layer), axis_name="ranks", in_axes=(None, 0, 0))
    shards = X.reshape(4, 2, 4, 6, 3), DY.reshape(4, 2, 4, 6, 3)
    (params, dx), stats = mapped(VARIABLES, *shards)
    params = jax.tree.map(lambda gradient: gradient.sum(0), params)
    made = (params, dx.reshape(X.shape)), jax.tree.map(lambda array: array[0], stats)
    assert_alike(made, step_of(ONE)(VARIABLES, X, DY))


def test_axis_index_groups() -> None:
    groups = [[0, 2], [1, 3]]
    layer = BatchNorm(use_running_average=False, axis_name="ranks", axis_index_groups=groups)
    mapped = jax.shard_map(
        lambda x: layer.apply(VARIABLES, x, mutable=["batch_stats"])[0],
        mesh=mesh(),
        in_specs=RANKS,
        out_specs=RANKS,
    )
    y = np.asarray(jax.jit(mapped)(X)).reshape(4, 2, 4, 6, 3)
    for group in groups:
        together = X.reshape(4, 2, 4, 6, 3)[group].reshape(4, 4, 6, 3)
        expected, _ = ONE.apply(VARIABLES, together, mutable=["batch_stats"])
        np.testing.assert_allclose(y[group].reshape(4, 4, 6, 3), expected, atol=1e-5)


def test_an_axis_of_nn_vmap_keeps_one_set_of_statistics(x64: bool) -> None:
    """variable_axes None: JAX has to know that the new statistics do not vary."""
    axes = {"params": None, "batch_stats": None}
    options = {"in_axes": 0, "variable_axes": axes, "split_rngs": {"params": False}}
    mapped = nn.vmap(BatchNorm, axis_name="batch", **options)
    layer = mapped(use_running_average=False, axis_name="batch")
    made = step_of(layer)(VARIABLES, X.reshape(4, 2, 4, 6, 3), DY.reshape(4, 2, 4, 6, 3))
    (params, dx), stats = made
    assert_alike(((params, dx.reshape(X.shape)), stats), step_of(ONE)(VARIABLES, X, DY))


def test_jit_over_a_sharded_batch_does_not_gather_it() -> None:
    layer = BatchNorm(use_running_average=False)
    given = [jax.device_put(array, NamedSharding(mesh(), RANKS)) for array in (X, DY, POSITIONS)]
    step = jax.jit(step_of(layer))
    assert "all-gather" not in step.lower(VARIABLES, *given).compile().as_text()
    assert_alike(step(VARIABLES, *given), step_of(ONE)(VARIABLES, X, DY, POSITIONS))


@pytest.mark.parametrize("rematerialized", [False, True])
def test_nn_scan_and_nn_remat(rematerialized: bool) -> None:
    def deep(norm: type[nn.Module]) -> nn.Module:
        class Step(nn.Module):
            @nn.compact
            def __call__(self, x: Any, _: Any) -> Any:
                kind = nn.remat(norm) if rematerialized else norm
                return kind(use_running_average=False, name="norm")(x) + x, None

        axes = {"params": 0, "batch_stats": 0}
        options = {"variable_axes": axes, "split_rngs": {"params": True}, "length": 3}
        return nn.scan(Step, **options)()

    def step(norm: type[nn.Module]) -> Any:
        layer = deep(norm)
        variables = layer.init(jax.random.key(0), X, None)

        def loss(params: Any) -> Any:
            given = variables | {"params": params}
            (y, _), new = layer.apply(given, X, None, mutable=["batch_stats"])
            return (y * DY).sum(), new

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    assert_alike(step(BatchNorm), step(nn.BatchNorm), 1e-4)


@pytest.mark.parametrize("axis", [4, (0, 5), ()], ids=str)
def test_an_axis_that_x_does_not_have(axis: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="axis: got"):
        BatchNorm(use_running_average=False, axis=axis).init(jax.random.key(0), X)
