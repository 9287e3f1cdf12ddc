"""What the functions hand out, and what outlives a call."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from syncnorm import numpy as bn

GENERATOR = np.random.default_rng(0)
X, DY, RESIDUAL = (GENERATOR.standard_normal((4, 3, 5)) for _ in range(3))
WEIGHT, BIAS = np.array([1.5, -0.5, 2.0]), np.array([0.25, -1.0, 0.0])
BOUND = 1e-13  # float64 with values of a few units


def test_gradients_are_a_tuple_of_three() -> None:
    _, saved = bn.forward(X, WEIGHT, BIAS, residual=RESIDUAL)
    gradients = bn.backward(DY, saved)
    dx, dweight, dbias = gradients
    assert gradients.dx is dx
    assert gradients.dweight is dweight
    assert gradients.dbias is dbias
    np.testing.assert_array_equal(gradients.dresidual, DY)


def test_gradients_of_what_there_was() -> None:
    for weight, bias in ((WEIGHT, None), (None, BIAS), (None, None)):
        gradients = bn.backward(DY, bn.forward(X, weight, bias)[1])
        assert (gradients.dweight is None) == (weight is None)
        assert (gradients.dbias is None) == (bias is None)
        assert gradients.dresidual is None


def test_gradients_have_the_dtype_of_their_parameter() -> None:
    _, saved = bn.forward(X.astype("f2"), WEIGHT.astype("f4"), BIAS.astype("f2"))
    dx, dweight, dbias = bn.backward(DY.astype("f2"), saved)
    assert (dx.dtype, dweight.dtype, dbias.dtype) == ("f2", "f4", "f2")


def test_out_is_what_comes_back() -> None:
    out = np.empty_like(X)
    assert bn.forward(X, out=out)[0] is out
    assert bn.infer(X, None, None, BIAS, WEIGHT**2, out=out) is out
    np.testing.assert_array_equal(out, bn.infer(X, None, None, BIAS, WEIGHT**2))


def test_inference_over_x() -> None:
    x, statistics = X.copy(), (BIAS, WEIGHT**2)
    expected = bn.infer(X, WEIGHT, None, *statistics, activation="relu")
    assert bn.infer(x, WEIGHT, None, *statistics, activation="relu", out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_y_over_the_residual() -> None:
    residual = RESIDUAL.copy()
    expected, same = bn.forward(X, WEIGHT, residual=RESIDUAL, activation="relu")
    y, saved = bn.forward(X, WEIGHT, residual=residual, activation="relu", out=residual)
    assert y is residual
    np.testing.assert_array_equal(y, expected)
    for one, other in zip(bn.backward(DY, saved), bn.backward(DY, same), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_training_the_statistics_stay_and_the_mask_does_not_matter() -> None:
    mean, var, count = BIAS.copy(), WEIGHT**2, np.array(3)
    mask = np.zeros((4, 5), np.uint8)
    given = {"num_batches_tracked": count, "mask": mask, "training": False}
    y, saved = bn.forward(X, WEIGHT, None, mean, var, **given)
    np.testing.assert_array_equal(y, bn.infer(X, WEIGHT, None, mean, var))
    np.testing.assert_array_equal(mean, BIAS)
    np.testing.assert_array_equal(var, WEIGHT**2)
    assert count == 3
    # x enters y by a factor for each channel.
    factor = (WEIGHT / np.sqrt(WEIGHT**2 + 1e-5))[:, None]
    np.testing.assert_allclose(bn.backward(DY, saved).dx, DY * factor, rtol=BOUND)


def test_momentum_none_averages_all_batches() -> None:
    batches = GENERATOR.standard_normal((5, 4, 3, 5))
    mean, var, count = np.zeros(3), np.ones(3), np.zeros((1, 1), np.int64)
    for x in batches:
        bn.forward(x, None, None, mean, var, num_batches_tracked=count, momentum=None)
    assert count == 5
    np.testing.assert_allclose(mean, batches.mean((0, 1, 3)), rtol=0, atol=BOUND)
    expected = batches.var((1, 3), ddof=1).mean(0)
    np.testing.assert_allclose(var, expected, rtol=BOUND)


def test_calls_may_be_outstanding_in_any_number_and_order() -> None:
    shapes = [(4, 3, 5), (2, 3), (3, 3, 2, 2)]
    calls = [bn.forward(GENERATOR.standard_normal(shape), WEIGHT) for shape in shapes]
    first = [bn.backward(y, saved).dx for y, saved in calls]
    again = [bn.backward(y, saved).dx for y, saved in reversed(calls)]
    for one, other in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("in_place", [False, True])
def test_saved_keeps_what_backward_reads_and_no_more(in_place: bool) -> None:
    x = X.copy()
    _, saved = bn.forward(x, WEIGHT.copy(), in_place=in_place)
    expected = bn.backward(DY, saved).dx
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert (alive() is None) == in_place
    reused = [np.full(X.shape, np.nan) for _ in range(20)]  # of memory that was given back
    np.testing.assert_array_equal(bn.backward(DY, saved).dx, expected)
    del saved, reused
    assert alive() is None


def test_the_statistics_can_be_read() -> None:
    _, saved = bn.forward(X)
    factor, h = saved.statistics[:2]
    mean, invstd, gate = saved.statistics[2:].reshape(3, 3)
    assert factor == 1 / 20
    assert 1 <= h <= 65535
    np.testing.assert_allclose(mean, X.mean((0, 2)), rtol=0, atol=BOUND)
    np.testing.assert_allclose(invstd, (X.var((0, 2)) + 1e-5) ** -0.5, rtol=BOUND)
    np.testing.assert_array_equal(gate, np.ones(3))
