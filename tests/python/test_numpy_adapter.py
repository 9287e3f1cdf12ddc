"""syncbn.numpy: what it saves for the backward pass, also in place."""

from __future__ import annotations

import numpy as np
import pytest

import syncbn
from syncbn import Options
from syncbn import numpy as adapter

GENERATOR = np.random.default_rng(0)
WEIGHT, BIAS = np.array([1.5, -0.5, 2.0]), np.array([0.25, -1.0, 0.0])
X, DY = (GENERATOR.standard_normal((4, 3, 5)) for _ in range(2))
BOUND = 1e-13  # float64 with values of a few units


@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "elu"])
def test_in_place_over_x_gives_the_same_gradients(activation: str) -> None:
    x = X.copy()
    y, saved = adapter.forward(X, WEIGHT, BIAS, options=Options(activation=activation))
    expected = adapter.backward(DY, saved)
    options = Options(activation=activation, in_place=True)
    over, saved = adapter.forward(x, WEIGHT, BIAS, options=options, out=x)
    assert over is x
    assert saved.x is x
    np.testing.assert_array_equal(x, y)
    gradients = adapter.backward(DY, saved)
    for name in ("dx", "dweight", "dbias"):
        actual = getattr(gradients, name)
        np.testing.assert_allclose(actual, getattr(expected, name), rtol=BOUND, atol=BOUND)


def test_in_place_keeps_the_output_and_not_the_input() -> None:
    x = X.copy()
    y, saved = adapter.forward(x, WEIGHT, BIAS, options=Options(in_place=True))
    assert saved.x is y
    expected = adapter.backward(DY, saved).dx
    x[:] = np.nan  # no longer needed
    np.testing.assert_array_equal(adapter.backward(DY, saved).dx, expected)


def test_in_place_in_phases_and_with_running_statistics() -> None:
    options = Options(activation="elu", in_place=True)
    x = X.copy()
    wire, local_var = adapter.moments(x, options=options)
    center_total = adapter.center(x, 1, wire, wire, local_var, options=options)
    wires = {"center_total": center_total, "options": options}
    y, saved = adapter.normalize(x, 1, wire, wire.copy(), WEIGHT, BIAS, out=x, **wires)
    grad_wire = adapter.grad_moments(DY, saved)
    gradients = adapter.grad_input(DY, saved, 1, grad_wire, grad_wire.copy())
    joined, saved = adapter.forward(X, WEIGHT, BIAS, options=options)
    np.testing.assert_array_equal(y, joined)
    np.testing.assert_array_equal(gradients.dx, adapter.backward(DY, saved).dx)

    statistics = np.array([0.5, 0.0, -1.0]), np.array([2.0, 1.0, 0.5])
    y, saved = adapter.infer(X, *statistics, WEIGHT, BIAS, options=options)
    _, plain = adapter.infer(X, *statistics, WEIGHT, BIAS, options=Options(activation="elu"))
    assert saved.x is y
    dx, expected = (adapter.backward(DY, s).dx for s in (saved, plain))
    np.testing.assert_allclose(dx, expected, rtol=BOUND, atol=BOUND)


def test_a_residual_cannot_be_in_place() -> None:
    with pytest.raises(syncbn.InvalidArgumentError, match="residual is given"):
        adapter.forward(X, WEIGHT, BIAS, residual=DY, options=Options(in_place=True))
