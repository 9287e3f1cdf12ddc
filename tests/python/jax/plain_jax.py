"""Batch normalization in plain JAX over one big batch, and numbers to give it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

_GENERATOR = np.random.default_rng(3)
SAMPLES, CHANNELS = 8, 3
X, DY = (_GENERATOR.standard_normal((SAMPLES, CHANNELS, 5), np.float32) for _ in range(2))
WEIGHT = np.array([1.5, -0.5, 2.0], np.float32)
BIAS = np.array([0.25, -1.0, 0.0], np.float32)
BOUND = 2e-5  # float32, values of a few units, sums of 40


def batch_norm(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """x (N, C, S)."""
    mean = x.mean((0, 2), keepdims=True)
    var = jnp.square(x - mean).mean((0, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * weight[:, None] + bias[:, None]


def loss(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    return (batch_norm(x, weight, bias) * DY).sum()


Y = np.asarray(batch_norm(X, WEIGHT, BIAS))
GRADIENTS = [np.asarray(gradient) for gradient in jax.grad(loss, (0, 1, 2))(X, WEIGHT, BIAS)]


def assert_close(actual: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=BOUND, atol=BOUND)
