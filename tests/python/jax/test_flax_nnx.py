"""syncnorm.flax.nnx.BatchNorm beside flax.nnx.BatchNorm: the same state and numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import P
from jax.sharding import NamedSharding
from jax_driver import RANKS, mesh

from syncnorm.flax.nnx import BatchNorm

GENERATOR = np.random.default_rng(22)
X, DY = (GENERATOR.standard_normal((8, 4, 3), np.float32) * 2 + 0.5 for _ in range(2))
POSITIONS = GENERATOR.random((8, 4, 1)) < 0.6
VALUES = GENERATOR.random((8, 4, 3)) < 0.6
BOUND = 3e-5


def assert_alike(made: Any, expected: Any, bound: float = BOUND) -> None:
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(np.float64(one), np.float64(other), rtol=bound, atol=bound)


def loss(layer: Any, x: Any, mask: Any = None) -> Any:
    y = layer(x, mask=mask)
    return (y.astype(jnp.float32) * DY).sum(), y


def train(layer: Any, x: Any, mask: Any = None) -> Any:
    """Return y, the gradients and the state after three steps, and the result with it."""
    step = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))
    for _ in range(3):
        gradients, y = step(layer, x, mask)
    state = nnx.to_pure_dict(nnx.state(layer))
    layer.eval()
    return y, gradients, state, nnx.jit(lambda layer, x: layer(x))(layer, x)


def layers(features: int = 3, **options: Any) -> list[Any]:
    return [one(features, rngs=nnx.Rngs(0), **options) for one in (BatchNorm, nnx.BatchNorm)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.5, "epsilon": 0.1},
        {"axis": 1, "features": 4},
        {"use_bias": False},
        {"use_scale": False, "use_bias": False},
        pytest.param(
            {"scale_init": nnx.initializers.uniform(), "bias_init": nnx.initializers.normal()},
            id="initializers",
        ),
        {"use_fast_variance": False},
        {"param_dtype": jnp.float16},
    ],
    ids=str,
)
def test_it_is_flax_s_layer(options: dict[str, Any]) -> None:
    made, expected = (train(layer, X) for layer in layers(**options))
    assert_alike(made, expected)


@pytest.mark.parametrize("mask", [POSITIONS, VALUES], ids=np.shape)
def test_masks_are_flax_s(mask: Any) -> None:
    made, expected = (train(layer, X, mask) for layer in layers())
    assert_alike(made, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes_are_flax_s(dtype: str) -> None:
    x = jnp.asarray(X).astype(dtype)
    for options, bound in (({}, BOUND), ({"dtype": jnp.bfloat16}, 0.1)):
        made, expected = (train(layer, x) for layer in layers(**options))
        assert_alike(made, expected, bound)


def test_running_statistics_are_not_rounded() -> None:
    """Where it differs from Flax's, which evaluates with float16 statistics here."""
    y = []
    for layer in layers(dtype=jnp.float16):
        layer.mean[...] = jnp.full(3, 1000.3)
        layer.eval()
        y.append(np.float64(layer(jnp.full((2, 3), 1001, jnp.float16))))
    np.testing.assert_allclose(y[0], 0.7, atol=1e-3)
    assert np.abs(y[1] - 0.7).min() > 0.1


def test_the_state_loads_in_both_directions() -> None:
    ours, flaxes = layers()
    for saved, loading in ((ours, flaxes), (flaxes, ours)):
        saved.train()
        saved(X)
        nnx.update(loading, nnx.state(saved))
        for layer in (saved, loading):
            layer.eval()
        assert_alike(loading(X), saved(X))
    assert isinstance(ours, nnx.BatchNorm)


def test_split_and_merge() -> None:
    ours, flaxes = layers()

    @jax.jit
    def step(graph: Any, state: Any) -> Any:
        layer = nnx.merge(graph, state)
        y = layer(X)
        return y, nnx.state(layer)

    made, expected = (step(*nnx.split(layer)) for layer in (ours, flaxes))
    assert_alike(made, expected)


def test_views_and_the_argument_of_a_call() -> None:
    layer, _ = layers()
    layer.mean[...] = jnp.ones(3)
    evaluated = np.float32((X - 1) / np.sqrt(1 + 1e-5))
    assert_alike(nnx.view(layer, use_running_average=True)(X), evaluated)
    assert_alike(layer(X, use_running_average=True), evaluated)
    unset = BatchNorm(3, use_running_average=None, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="use_running_average: got None"):
        unset(X)


def test_in_shard_map_it_is_one_batch(x64: bool) -> None:
    ours = BatchNorm(3, axis_name="ranks", rngs=nnx.Rngs(0))
    _, flaxes = layers()
    graph, state = nnx.split(ours)

    def step(state: Any, x: Any) -> Any:
        layer = nnx.merge(graph, state)
        return layer(x), nnx.state(layer, nnx.BatchStat)

    mapped = jax.shard_map(step, mesh=mesh(), in_specs=(P(), RANKS), out_specs=(RANKS, P()))
    made = jax.jit(mapped)(state, X)
    assert_alike(made, (flaxes(X), nnx.state(flaxes, nnx.BatchStat)))


def test_jit_over_a_sharded_batch_does_not_gather_it() -> None:
    ours, flaxes = layers()
    graph, state = nnx.split(ours)
    x = jax.device_put(X, NamedSharding(mesh(), RANKS))

    @jax.jit
    def step(state: Any, x: Any) -> Any:
        layer = nnx.merge(graph, state)
        gradients, _ = nnx.grad(loss, argnums=(0, 1), has_aux=True)(layer, x)
        return gradients, nnx.state(layer)

    assert "all-gather" not in step.lower(state, x).compile().as_text()
    expected, _ = nnx.grad(loss, argnums=(0, 1), has_aux=True)(flaxes, X)
    assert_alike(step(state, x), (expected, nnx.state(flaxes)))


def test_scan_over_layers_and_remat() -> None:
    def deep(kind: Any) -> Any:
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(key: Any) -> Any:
            return kind(3, rngs=nnx.Rngs(key))

        stack = create(jax.random.split(jax.random.key(0), 3))

        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def forward(layer: Any, x: Any) -> Any:
            return layer(x) + x

        return nnx.jit(forward)(stack, X), nnx.state(stack)

    assert_alike(deep(BatchNorm), deep(nnx.BatchNorm), 1e-4)
