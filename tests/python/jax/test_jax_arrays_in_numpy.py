"""syncnorm.numpy takes arrays of JAX that are on the CPU, and leaves them as they are."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import syncnorm
from syncnorm import numpy as bn

X = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)


def test_arrays_of_jax_are_read() -> None:
    y, saved = bn.forward(jnp.asarray(X), jnp.ones(3, "float32"), residual=jnp.asarray(X))
    np.testing.assert_array_equal(y, bn.forward(X, np.ones(3, np.float32), residual=X)[0])
    assert bn.backward(jnp.asarray(X), saved).dweight.shape == (3,)


def test_arrays_of_jax_are_not_written() -> None:
    mean, var = jnp.zeros(3, "float32"), jnp.ones(3, "float32")
    with pytest.raises(syncnorm.InvalidArgumentError, match="running_mean: is read-only"):
        bn.forward(X, None, None, mean, var)
    assert not mean.any()


def test_bfloat16_has_to_be_converted() -> None:
    """NumPy's DLPack does not know it."""
    x = jnp.asarray(X, "bfloat16")
    with pytest.raises(TypeError, match=r"x: got .*, expected an array that NumPy can use"):
        bn.forward(x)
    assert bn.forward(np.asarray(x))[0].dtype == x.dtype
