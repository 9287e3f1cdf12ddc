"""What a layer keeps for backward, adds up and hands out."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from thread_layers import BOUND, random_arrays, trained

import syncnorm
from syncnorm import numpy as bn

SHAPE = (4, 3, 5)


def functions_arguments(layer: bn.SyncBatchNorm) -> dict[str, Any]:
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    arrays = {name: getattr(layer, name) for name in names}
    return {name: array.copy() for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": None, "eps": 1e-3},
        {"affine": False},
        {"weight": False},
        {"bias": False, "track_running_stats": False},
        {"activation": "leaky_relu", "negative_slope": 0.2},
        {"weighting": "equal", "variance_factor": "biased", "centering": "on"},
    ],
    ids=str,
)
def test_a_layer_is_the_functions_to_the_bit(dtype: str, settings: dict[str, Any]) -> None:
    x, dy, residual = random_arrays([SHAPE] * 3, 1, dtype)
    layer = trained(bn.SyncBatchNorm(3, dtype=dtype, **settings))
    given = functions_arguments(layer)
    y = layer(x, residual)
    dx, dresidual = layer.backward(dy)
    chosen = {
        name: settings[name] for name in settings if name in syncnorm.settings.Settings._fields
    }
    expected, saved = bn.forward(x, **given, residual=residual, **chosen)
    gradients = bn.backward(dy, saved)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, gradients.dx)
    np.testing.assert_array_equal(dresidual, gradients.dresidual)
    for name, array in given.items():
        np.testing.assert_array_equal(getattr(layer, name), array)
    for name, gradient in (("weight", gradients.dweight), ("bias", gradients.dbias)):
        held = getattr(layer, f"{name}_grad")
        assert (held is None) == (gradient is None) == (name not in given)
        if held is not None:
            np.testing.assert_array_equal(held, gradient)
            assert held.dtype == dtype


@pytest.mark.parametrize(
    ("num_features", "axis", "shape"),
    [
        (3, None, (4, 3, 5)),
        (3, -1, (4, 5, 3)),
        ((3,), (0,), (3, 8)),
        ((3, 5), None, (4, 3, 5)),
        ((3, 5), None, (4, 3, 5, 2)),
        ((3, 2), (1, 3), (4, 3, 5, 2)),
        (np.int64(3), np.int64(1), (4, 3)),
    ],
)
def test_any_channel_axes(num_features: Any, axis: Any, shape: tuple[int, ...]) -> None:
    (x,) = random_arrays([shape], 2)
    layer = bn.SyncBatchNorm(num_features, axis=axis, dtype="float64")
    y = layer(x)
    axes = (1,) if axis is None and layer.weight.ndim == 1 else axis
    axes = (1, 2) if axes is None else np.atleast_1d(axes) % len(shape)
    reduced = tuple(a for a in range(len(shape)) if a not in axes)
    mean, var = x.mean(reduced, keepdims=True), x.var(reduced, keepdims=True)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=0, atol=100 * BOUND)
    assert layer.running_mean.shape == tuple(shape[a] for a in axes)
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean.reshape(layer.weight.shape))


def test_calls_wait_for_their_backward_newest_first() -> None:
    *x, dy = random_arrays([SHAPE] * 4, 3)
    layer = trained(bn.SyncBatchNorm(3, dtype="float64"))
    apart = [trained(bn.SyncBatchNorm(3, dtype="float64")) for _ in x]
    for each in x:
        layer(each)
    assert layer.outstanding == len(x)
    for each, other in zip(reversed(x), apart, strict=True):
        other(each)
        np.testing.assert_array_equal(layer.backward(dy), other.backward(dy))
    assert layer.outstanding == 0
    # What three layers had, one has added up.
    for name in ("weight_grad", "bias_grad"):
        total = sum(getattr(other, name) for other in apart)
        np.testing.assert_allclose(getattr(layer, name), total, rtol=0, atol=100 * BOUND)


def test_explicit_saved_in_any_order_and_several_times() -> None:
    x0, x1, dy = random_arrays([SHAPE] * 3, 4)
    layer = trained(bn.SyncBatchNorm(3, dtype="float64"))
    _, saved0 = layer.forward(x0)
    layer(x1)
    kept = layer.outstanding
    first = layer.backward(dy, saved0)
    np.testing.assert_array_equal(layer.backward(dy, saved0), first)
    assert layer.outstanding == kept == 1
    other = layer.backward(dy)
    assert np.abs(other - first).max() > 0.01
    assert layer.outstanding == 0


def test_a_layer_used_twice_in_one_pass() -> None:
    """y = bn(bn(x)): the derivative of sum(y*dy) by x and weight, against differences."""
    x, dy = random_arrays([(4, 2, 3)] * 2, 5)
    layer = trained(bn.SyncBatchNorm(2, dtype="float64", track_running_stats=False))

    def loss(x: np.ndarray) -> float:
        inner, _ = layer.forward(x)
        outer, _ = layer.forward(inner)
        return float((outer * dy).sum())

    layer(layer(x))
    dx = layer.backward(layer.backward(dy))
    step = 1e-6
    for index in [(0, 0, 0), (3, 1, 2)]:
        moved = np.zeros_like(x)
        moved[index] = step
        slope = (loss(x + moved) - loss(x - moved)) / (2 * step)
        assert abs(slope - dx[index]) < 1e-7
    before = layer.weight[1]
    above, below = before + step, before - step
    layer.weight[1] = above
    difference = loss(x)
    layer.weight[1] = below
    difference -= loss(x)
    assert abs(difference / (2 * step) - layer.weight_grad[1]) < 1e-7


def test_gradients_add_up_until_zero_grad() -> None:
    x, dy = random_arrays([SHAPE] * 2, 6)
    layer = trained(bn.SyncBatchNorm(3, dtype="float64"))
    assert layer.weight_grad is None
    assert layer.bias_grad is None
    layer(x)
    layer.backward(dy)
    once = layer.weight_grad.copy()
    layer(x)
    layer.backward(dy)
    np.testing.assert_array_equal(layer.weight_grad, 2 * once)
    layer.zero_grad()
    assert layer.weight_grad is None
    assert layer.bias_grad is None
    layer(x)
    layer.backward(dy)
    np.testing.assert_array_equal(layer.weight_grad, once)


def test_gradients_go_into_the_arrays_that_are_there() -> None:
    x, dy = random_arrays([SHAPE] * 2, 7)
    layer, plain = (trained(bn.SyncBatchNorm(3, dtype="float64")) for _ in range(2))
    buffer = np.zeros(6)
    layer.weight_grad, layer.bias_grad = buffer[:3], buffer[3:]
    for each in (layer, plain):
        each(x)
        each.backward(dy)
    np.testing.assert_array_equal(buffer, np.concatenate([plain.weight_grad, plain.bias_grad]))


def test_the_residual_has_a_gradient_of_its_own() -> None:
    x, residual, dy = random_arrays([SHAPE] * 3, 8)
    layer = trained(bn.SyncBatchNorm(3, dtype="float64", activation="relu"))
    y = layer(x, residual)
    dx, dresidual = layer.backward(dy)
    np.testing.assert_array_equal(dresidual, np.where(y > 0, dy, 0))
    assert dx.shape == x.shape
    layer(x)
    assert isinstance(layer.backward(dy), np.ndarray)


def test_the_mask_says_what_counts() -> None:
    (x,) = random_arrays([SHAPE], 9)
    mask = np.zeros((4, 5), np.uint8)
    mask[:2] = 1
    layer, half = (trained(bn.SyncBatchNorm(3, dtype="float64")) for _ in range(2))
    y = layer(x, mask=mask)
    np.testing.assert_allclose(y[:2], half(x[:2]), rtol=0, atol=100 * BOUND)
    np.testing.assert_allclose(layer.running_mean, half.running_mean, rtol=BOUND)


def test_in_place_y_takes_the_memory_of_x() -> None:
    x, dy = random_arrays([SHAPE] * 2, 10)
    settings = {"activation": "leaky_relu", "dtype": "float64"}
    layer = trained(bn.SyncBatchNorm(3, in_place=True, **settings))
    plain = trained(bn.SyncBatchNorm(3, **settings))
    expected, expected_dx = plain(x.copy()), plain.backward(dy)
    y = layer(x)
    assert y is x
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(layer.backward(dy), expected_dx, rtol=0, atol=100 * BOUND)
    assert layer.eval()(x) is x


def test_nothing_is_kept_where_no_backward_follows() -> None:
    (x,) = random_arrays([SHAPE], 11)
    layer = bn.SyncBatchNorm(3, dtype="float64")
    layer.forward(x)
    layer.eval()(x)
    assert layer.outstanding == 0
    layer.train()
    layer(x)
    assert layer.outstanding == 1
    layer.clear()
    assert layer.outstanding == 0


def test_many_calls_without_backward_are_told_once() -> None:
    x = np.zeros((1, 1), np.float32)
    layer = bn.SyncBatchNorm(1)
    for _ in range(255):
        layer(x)
    with pytest.warns(
        RuntimeWarning, match="256 training calls of SyncBatchNorm.* have had no backward"
    ):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)


def test_backward_without_a_call() -> None:
    layer = bn.SyncBatchNorm(3)
    with pytest.raises(
        syncnorm.InvalidArgumentError,
        match="expected a training call of the layer without a backward",
    ):
        layer.backward(np.zeros(SHAPE, np.float32))
    layer.eval()(np.zeros(SHAPE, np.float32))
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"call y, saved = layer\.forward\(x\)"):
        layer.backward(np.zeros(SHAPE, np.float32))


def test_a_backward_that_is_refused_may_be_repeated() -> None:
    x, dy = random_arrays([SHAPE] * 2, 12)
    layer = bn.SyncBatchNorm(3)
    layer(x)
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"dy: got shape \(4, 3\)"):
        layer.backward(dy[..., 0])
    with pytest.raises(TypeError, match="saved: got list"):
        layer.backward(dy, [x])
    assert layer.weight_grad is None
    assert layer.backward(dy).shape == SHAPE


@pytest.mark.parametrize(
    ("has_arrays", "message"),
    [
        (True, r"weight: got shape \(3,\), expected \(2,\): x has shape \(4, 2, 5\)"),
        (False, r"x: got shape \(4, 2, 5\), expected 3 on axis 1"),
    ],
)
def test_wrong_channels_are_refused(has_arrays: bool, message: str) -> None:
    layer = bn.SyncBatchNorm(3, affine=has_arrays, track_running_stats=has_arrays)
    with pytest.raises(syncnorm.InvalidArgumentError, match=message):
        layer(np.zeros((4, 2, 5), np.float32))
    with pytest.raises(TypeError, match="x: got"):
        layer([[1.0, 2.0, 3.0]])
    assert layer.outstanding == 0
