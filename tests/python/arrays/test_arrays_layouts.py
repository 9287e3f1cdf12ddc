"""What is taken without a copy, how results lie in memory, and how axes are said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import syncnorm
from syncnorm import numpy as bn
from syncnorm.numpy.library import NumpyLibrary

GENERATOR = np.random.default_rng(0)
SHAPE = (4, 3, 5, 2)
BOUND = 1e-12  # float64 with values of a few units


def in_memory(values: np.ndarray, *order: int) -> np.ndarray:
    """A copy whose axes lie in this order, the outermost first."""
    return np.ascontiguousarray(values.transpose(order)).transpose(np.argsort(order))


def random(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape)


def normalized(x: np.ndarray, *axes: int) -> np.ndarray:
    """For a group of one, without weight and bias."""
    reduced = tuple(a for a in range(x.ndim) if a not in axes)
    var = x.var(reduced, keepdims=True)
    return (x - x.mean(reduced, keepdims=True)) / np.sqrt(var + 1e-5)


# The order of four axes in memory, and the channel axes.
TAKEN = {
    "channels first": ((0, 1, 2, 3), 1),
    "channels last in memory": ((0, 2, 3, 1), 1),
    "channels last": ((0, 1, 2, 3), 3),
    "channels outermost": ((0, 1, 2, 3), 0),
    "channels between spatial axes": ((0, 1, 2, 3), 2),
    "Fortran order": ((3, 2, 1, 0), 1),
    "two axes": ((0, 1, 2, 3), (1, 2)),
    "two axes in their order in memory": ((0, 3, 1, 2), (3, 1)),
    "two axes innermost": ((1, 0, 3, 2), (3, 2)),
    "samples between positions": ((2, 0, 3, 1), 1),
    "all but one": ((0, 1, 2, 3), (1, 2, 3)),
    "all": ((0, 1, 2, 3), (0, 1, 2, 3)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_no_copy_where_the_core_can_take_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order, axis = TAKEN[name]
    axes = (axis,) if isinstance(axis, int) else axis
    x, dy = in_memory(random(*SHAPE), *order), in_memory(random(*SHAPE), *order)

    def refuse(*_: Any) -> None:
        raise AssertionError("a copy was made")

    monkeypatch.setattr(NumpyLibrary, "assign", refuse)
    y, saved = bn.forward(x, axis=axis)
    dx = bn.backward(dy, saved).dx
    assert saved.x is x
    assert x.strides == y.strides == dx.strides
    np.testing.assert_allclose(y, normalized(x, *axes), rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize(
    ("order", "axis", "lies"),
    [
        ((0, 1, 2, 3), (0, 2), (1, 0, 2, 3)),  # the first axis that is reduced, then the channels
        ((0, 1, 2, 3), (2, 1), (0, 2, 1, 3)),  # in the order of the user
        ((0, 1, 2, 3), (1, 3), (0, 2, 1, 3)),  # innermost, since one of them was
    ],
)
def test_a_copy_where_it_cannot(
    order: tuple[int, ...], axis: tuple[int, int], lies: tuple[int, ...]
) -> None:
    x = in_memory(random(*SHAPE), *order)
    before = x.copy()
    y, saved = bn.forward(x, axis=axis)
    assert not np.shares_memory(saved.x, x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(y, normalized(x, *axis), rtol=BOUND, atol=BOUND)
    assert y.strides == in_memory(x, *lies).strides


VIEWS = {
    "every other": random(4, 3, 10)[:, :, ::2],
    "backwards": random(4, 3, 5)[::-1, :, ::-1],
    "a slice of channels": random(4, 9, 5)[:, 3:6],
    "one value for all samples": np.broadcast_to(random(3, 5), (4, 3, 5)),
    "one value for all positions": np.broadcast_to(random(4, 3, 1), (4, 3, 5)),
    "a field": random(4, 3, 5, 2).view([("a", "f8"), ("b", "f8")])["b"][..., 0],
    "a field at odd addresses": np.zeros((4, 3, 5), [("a", "u1"), ("b", "f8")])["b"],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_with_gaps(name: str) -> None:
    x, dy = VIEWS[name], random(4, 3, 5)
    y, saved = bn.forward(x)
    expected, same = bn.forward(x.copy("C"))
    np.testing.assert_allclose(y, expected, rtol=BOUND, atol=BOUND)
    assert y.flags.writeable
    # Without the gaps, else as x lies; an axis without strides of its own goes innermost.
    lies = {"one value for all samples": (1, 2, 0)}.get(name, (0, 1, 2))
    assert y.strides == in_memory(expected, *lies).strides
    dx = bn.backward(np.asfortranarray(dy), saved).dx
    np.testing.assert_allclose(dx, bn.backward(dy, same).dx, rtol=BOUND, atol=BOUND)


def test_what_is_read_may_lie_in_any_way() -> None:
    x, dy, residual = (random(*SHAPE) for _ in range(3))
    weight, bias = random(6)[::2], random(3)[::-1]
    mask = GENERATOR.integers(0, 2, (4, 5, 2)).astype(bool)
    options = {"mask": mask, "residual": residual, "activation": "relu"}
    y, saved = bn.forward(x, weight, bias, **options)
    expected = bn.backward(dy, saved)
    copies = {"mask": np.asfortranarray(mask), "residual": in_memory(residual, 3, 1, 0, 2)}
    same, saved = bn.forward(x, weight.copy(), bias.copy(), **options | copies)
    gradients = bn.backward(in_memory(dy, 2, 0, 1, 3), saved)
    np.testing.assert_array_equal(same, y)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(gradients.dresidual, expected.dresidual)


@pytest.mark.parametrize("shape", [(0, 3, 5), (4, 3, 0), (4, 0, 5), (0, 0)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_empty_arrays(shape: tuple[int, ...], axis: int) -> None:
    x = random(*shape)
    channels = shape[axis]
    mean, var = np.full(channels, 7.0), np.full(channels, 8.0)
    y, saved = bn.forward(x, np.ones(channels), np.ones(channels), mean, var, axis=axis)
    dx, dweight, dbias = bn.backward(random(*shape), saved)
    assert y.shape == dx.shape == shape
    assert (mean.tolist(), var.tolist()) == ([7] * channels, [8] * channels)
    for gradient in (dweight, dbias):
        np.testing.assert_array_equal(gradient, np.zeros(channels))


def test_one_axis() -> None:
    """Every value is a channel of its own."""
    mean = np.zeros(4)
    y, _ = bn.forward(np.arange(4.0), None, np.ones(4), mean, np.ones(4), axis=0)
    np.testing.assert_array_equal(y, np.ones(4))
    np.testing.assert_allclose(mean, 0.1 * np.arange(4), rtol=BOUND)


SAME_AXES = [(1, 2), [1, 2], (-2, -1), np.array([1, 2]), (np.int64(1), np.int8(-1)), range(1, 3)]


@pytest.mark.parametrize("axis", SAME_AXES, ids=repr)
def test_axes_as_any_integers(axis: Any) -> None:
    x = np.arange(24.0).reshape(4, 3, 2)
    y, saved = bn.forward(x, np.ones((3, 2)), axis=axis)
    np.testing.assert_array_equal(y, bn.forward(x, np.ones((3, 2)), axis=(1, 2))[0])
    assert bn.backward(x, saved).dweight.shape == (3, 2)


@pytest.mark.parametrize("axis", [1, -2, np.int32(1), (1,), [-2]], ids=repr)
def test_one_axis_as_any_integer(axis: Any) -> None:
    x = np.arange(24.0).reshape(4, 3, 2)
    np.testing.assert_array_equal(bn.forward(x, axis=axis)[0], bn.forward(x)[0])


@pytest.mark.parametrize("axis", [True, (True,), 1.0, "1", None, (1, None), np.True_], ids=repr)
def test_what_is_no_axis(axis: Any) -> None:
    bn.forward(np.ones((4, 3)), axis=1)  # equal to True, and remembered
    with pytest.raises(TypeError, match=r"axis: got .* expected an integer or a sequence"):
        bn.forward(np.ones((4, 3)), axis=axis)


@pytest.mark.parametrize("axis", [3, -4, (1, 3), (), (1, 1), (0, -3)], ids=repr)
def test_axes_that_x_has_not(axis: Any) -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"^axis: got "):
        bn.forward(np.ones((4, 3, 2)), axis=axis)


def test_a_scalar_has_no_axes() -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"x: got shape \(\)"):
        bn.forward(np.array(1.0), axis=0)
