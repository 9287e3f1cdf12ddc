"""State dicts: into files and back, from and into torch's layers, and by other systems' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from thread_layers import trained
from torch import nn

import syncnorm
import syncnorm.torch
from syncnorm.numpy import SyncBatchNorm

TORCH_NAMES = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
NAMES = {
    "torch": TORCH_NAMES,
    "Chainer": ["gamma", "beta", "avg_mean", "avg_var", "N"],
    "MXNet": ["gamma", "beta", "running_mean", "running_var"],
    "Paddle": ["weight", "bias", "_mean", "_variance"],
    "MegEngine": ["weight", "bias", "running_mean", "running_var"],
    "Keras": ["gamma", "beta", "moving_mean", "moving_variance"],
    "Flax": ["scale", "bias", "mean", "var"],
}
CHOICES: list[dict[str, Any]] = [
    {},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"dtype": "float64"},
]


class OnDevice:
    """Like cupy.ndarray, which NumPy cannot read."""

    def __array__(self) -> np.ndarray:
        raise TypeError("not allowed")


class Variable:
    """Like an array of a system that NumPy can read."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __array__(self) -> np.ndarray:
        return self._values


def assert_same(state: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(state) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
@pytest.mark.parametrize("num_features", [3, (3, 2)], ids=str)
def test_a_file_holds_the_state(tmp_path: Path, num_features: Any, dtype: Any) -> None:
    layer = trained(SyncBatchNorm(num_features, dtype=dtype))
    np.savez(tmp_path / "layer.npz", **layer.state_dict())
    other = SyncBatchNorm(num_features, dtype=dtype)
    weight = other.weight
    with np.load(tmp_path / "layer.npz") as state:
        assert other.load_state_dict(state) == ([], [])
    assert other.weight is weight  # written in place
    assert other.weight.dtype == dtype
    assert_same(other.state_dict(), layer.state_dict())


def test_the_state_is_a_copy() -> None:
    layer = trained(SyncBatchNorm(3))
    state = layer.state_dict()
    assert list(state) == TORCH_NAMES
    assert state["num_batches_tracked"].shape == ()
    before = {name: array.copy() for name, array in state.items()}
    layer(np.ones((2, 3), np.float32))
    layer.weight[...] = 0
    assert_same(state, before)


@pytest.mark.parametrize("choices", CHOICES, ids=str)
@pytest.mark.parametrize("theirs", [nn.BatchNorm2d, syncnorm.torch.SyncBatchNorm])
def test_to_torch_and_back(theirs: Any, choices: dict[str, Any]) -> None:
    layer = trained(SyncBatchNorm(3, **choices))
    target = theirs(3, **{**choices, "dtype": getattr(torch, choices.get("dtype", "float32"))})
    state = layer.state_dict()
    target.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    back = SyncBatchNorm(3, **choices)
    assert back.load_state_dict(target.state_dict()) == ([], [])
    assert_same(back.state_dict(), state)
    x = np.random.default_rng(1).standard_normal((4, 3, 2, 2))
    x = x.astype(choices.get("dtype", "float32"))
    y = target.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(layer.eval()(x), y, rtol=0, atol=1e-5)


def test_torch_tensors_with_gradients_and_in_16_bits() -> None:
    theirs = nn.BatchNorm1d(3, dtype=torch.bfloat16)
    nn.init.uniform_(theirs.weight)
    layer = SyncBatchNorm(3)
    layer.load_state_dict(dict(theirs.named_parameters()) | dict(theirs.named_buffers()))
    np.testing.assert_array_equal(layer.weight, theirs.weight.detach().float().numpy())
    assert layer.weight.dtype == "float32"


def test_what_numpy_can_read() -> None:
    state = trained(SyncBatchNorm(3, dtype=ml_dtypes.bfloat16)).state_dict()
    layer = SyncBatchNorm(3)
    layer.load_state_dict({name: Variable(array) for name, array in state.items()})
    assert_same(layer.state_dict(), state)


@pytest.mark.parametrize("prefix", ["", "bn1.", "predictor/bn1/", "resnet0_batchnorm0_"])
@pytest.mark.parametrize("system", NAMES)
def test_names_of_other_systems(system: str, prefix: str) -> None:
    values = {
        "weight": np.array([1.0, 2.0, 3.0]),
        "bias": np.array([4, 5, 6]),
        "running_mean": np.array([7.0, 8.0, 9.0], np.float32),
        "running_var": np.array([0.5, 0.25, 0.125], np.float16),
        "num_batches_tracked": np.array(11, np.int32),
    }
    shape = (1, 3, 1, 1) if system == "MegEngine" else (3,)
    state = {
        prefix + name: value if value.ndim == 0 else value.reshape(shape)
        for name, value in zip(NAMES[system], values.values(), strict=False)
    }
    if prefix:
        state["fc/weight"] = np.ones((2, 2))
    layer = SyncBatchNorm(3)
    layer.num_batches_tracked[...] = 5
    assert layer.load_state_dict(state, prefix=prefix) == ([], [])
    expected = (
        values
        if prefix + "N" in state or system == "torch"
        else {**values, "num_batches_tracked": 5}
    )
    assert_same(layer.state_dict(), expected)


def test_a_model_of_several_layers_in_one_file(tmp_path: Path) -> None:
    layers = {"bn1.": trained(SyncBatchNorm(3)), "bn10.": SyncBatchNorm(4)}
    state = {k: v for prefix, layer in layers.items() for k, v in layer.state_dict(prefix).items()}
    np.savez(tmp_path / "model.npz", **state)
    with np.load(tmp_path / "model.npz") as file:
        for prefix, layer in layers.items():
            other = SyncBatchNorm(layer.num_features)
            other.load_state_dict(file, prefix=prefix)
            assert_same(other.state_dict(), layer.state_dict())


def test_a_counter_with_one_axis_loads() -> None:
    layer = SyncBatchNorm(3)
    layer.load_state_dict({**layer.state_dict(), "num_batches_tracked": np.array([9])})
    assert layer.num_batches_tracked == 9


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": None}, ValueError, "missing weight .*weight/gamma/scale"),
        ({"momentum": np.ones(3)}, ValueError, "unexpected momentum; strict=False loads the"),
        ({"gamma": np.ones(3)}, ValueError, "got weight and gamma, which both mean weight"),
        (
            {"running_var": np.ones(4)},
            ValueError,
            r"running_var: got shape \(4,\), expected \(3,\)",
        ),
        ({"running_var": np.ones((3, 3))}, ValueError, r"running_var: got shape \(3, 3\)"),
        ({"running_var": np.ones(3, complex)}, ValueError, "running_var: got dtype complex128"),
        ({"running_var": np.array(["1", "2", "3"])}, ValueError, "running_var: got dtype <U1"),
        ({"running_var": [1.0, 2.0, 3.0]}, TypeError, "running_var: got .*list, expected a"),
        ({"running_var": np.ma.ones(3)}, TypeError, "running_var: got a masked array"),
        ({"running_var": OnDevice()}, TypeError, "running_var: got .*OnDevice: not allowed"),
        ({"num_batches_tracked": np.array(1.5)}, ValueError, "num_batches_tracked: got dtype"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_changes(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    layer = SyncBatchNorm(3)
    before = layer.state_dict()
    state = {**trained(SyncBatchNorm(3)).state_dict(), **change}
    with pytest.raises(error, match=message):
        layer.load_state_dict({name: array for name, array in state.items() if array is not None})
    assert_same(layer.state_dict(), before)


def test_a_state_of_a_whole_model_asks_for_a_prefix() -> None:
    state = SyncBatchNorm(3).state_dict("predictor/bn1/")
    for prefix in ("", "bn1/"):
        with pytest.raises(syncnorm.InvalidArgumentError, match="prefix, such as predictor/bn1/"):
            SyncBatchNorm(3).load_state_dict(state, prefix=prefix)


def test_a_state_is_a_mapping() -> None:
    with pytest.raises(TypeError, match="state: got str, expected a mapping"):
        SyncBatchNorm(3).load_state_dict("layer.npz")


def test_not_strict_loads_what_fits_and_reports_as_torch() -> None:
    state = trained(SyncBatchNorm(3, bias=False)).state_dict()
    layer, theirs = SyncBatchNorm(3, weight=False), nn.BatchNorm2d(3)
    theirs.weight = None
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    expected = theirs.load_state_dict(tensors, strict=False)
    keys = layer.load_state_dict(state, strict=False)
    assert keys.missing_keys == expected.missing_keys == ["bias"]
    assert keys.unexpected_keys == expected.unexpected_keys == ["weight"]
    np.testing.assert_array_equal(layer.running_var, state["running_var"])
