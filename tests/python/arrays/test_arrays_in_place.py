"""The output over the input: what the backward pass gets from y."""

from __future__ import annotations

import numpy as np
import pytest

import syncnorm
from syncnorm import numpy as bn

GENERATOR = np.random.default_rng(0)
WEIGHT, BIAS = np.array([1.5, -0.5, 2.0]), np.array([0.25, -1.0, 0.0])
X, DY = (GENERATOR.standard_normal((4, 3, 5)) for _ in range(2))
BOUND = 1e-13  # float64 with values of a few units


@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "elu"])
def test_over_x_gives_the_same_gradients(activation: str) -> None:
    x = X.copy()
    y, saved = bn.forward(X, WEIGHT, BIAS, activation=activation)
    expected = bn.backward(DY, saved)
    over, saved = bn.forward(x, WEIGHT, BIAS, activation=activation, in_place=True, out=x)
    assert over is x
    assert saved.x is x
    np.testing.assert_array_equal(x, y)
    for one, other in zip(bn.backward(DY, saved), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=BOUND, atol=BOUND)


def test_the_output_is_kept_and_not_the_input() -> None:
    x = X.copy()
    y, saved = bn.forward(x, WEIGHT, BIAS, in_place=True)
    assert saved.x is y
    expected = bn.backward(DY, saved).dx
    x[:] = np.nan  # no longer needed
    np.testing.assert_array_equal(bn.backward(DY, saved).dx, expected)


def test_in_phases_and_with_running_statistics() -> None:
    settings = {"activation": "elu", "in_place": True}
    x = X.copy()
    wire, local_var = bn.moments(x, **settings)
    center_total = bn.center(x, wire, wire, local_var, 1, **settings)
    wires = {"center_total": center_total, "out": x}
    y, saved = bn.normalize(x, wire, wire.copy(), 1, WEIGHT, BIAS, **wires, **settings)
    assert y is x
    grad_wire = bn.grad_moments(DY, saved)
    gradients = bn.grad_input(DY, saved, grad_wire, grad_wire.copy(), 1)
    joined, saved = bn.forward(X, WEIGHT, BIAS, **settings)
    np.testing.assert_array_equal(y, joined)
    np.testing.assert_array_equal(gradients.dx, bn.backward(DY, saved).dx)

    statistics = np.array([0.5, 0.0, -1.0]), np.array([2.0, 1.0, 0.5])
    y, saved = bn.forward(X, WEIGHT, BIAS, *statistics, training=False, **settings)
    assert saved.x is y
    settings["in_place"] = False
    _, plain = bn.forward(X, WEIGHT, BIAS, *statistics, training=False, **settings)
    dx, expected = (bn.backward(DY, s).dx for s in (saved, plain))
    np.testing.assert_allclose(dx, expected, rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize("training", [True, False])
def test_over_x_it_has_to_be_said(training: bool) -> None:
    """Backward reads x: what forward had written there would be taken for it."""
    x, statistics = X.copy(), (np.zeros(3), np.ones(3))
    out = {"whole": x, "part": np.concatenate([x, x])[2:6]}
    within = {"whole": x, "part": out["part"].base[:4]}
    for name, array in out.items():
        with pytest.raises(syncnorm.InvalidArgumentError, match="out: shares memory with x"):
            bn.forward(within[name], None, None, *statistics, training=training, out=array)
    np.testing.assert_array_equal(x, X)


def test_a_residual_cannot_be_in_place() -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match="residual is given"):
        bn.forward(X, WEIGHT, BIAS, residual=DY, in_place=True)
