"""weights.convert: checkpoints of every system as those of every other."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from syncnorm.torch import encoding, megengine, mmcv, mxnet, paddle
from syncnorm.torch.weights import SYSTEMS, convert

COUNT = "num_batches_tracked"
# A layer of each system, and the same without weight and bias.
LAYERS: dict[str, tuple[Any, Any]] = {
    "torch": (nn.BatchNorm2d, partial(nn.BatchNorm2d, affine=False)),
    "mxnet": (mxnet.SyncBatchNorm, partial(mxnet.SyncBatchNorm, center=False, scale=False)),
    "paddle": (
        paddle.SyncBatchNorm,
        partial(paddle.SyncBatchNorm, weight_attr=False, bias_attr=False),
    ),
    "encoding": (encoding.BatchNorm2d, partial(encoding.BatchNorm2d, affine=False)),
    "mmcv": (mmcv.SyncBatchNorm, partial(mmcv.SyncBatchNorm, affine=False)),
    "megengine": (megengine.SyncBatchNorm, partial(megengine.SyncBatchNorm, affine=False)),
}
PAIRS = [pytest.mark.parametrize(side, SYSTEMS) for side in ("source", "target")]


def both_ways(test: Any) -> Any:
    return PAIRS[0](PAIRS[1](test))


def network(system: str, *, affine: bool = False) -> nn.Sequential:
    """affine: whether the second batch normalization has weight and bias as well."""
    layers = OrderedDict(
        conv=nn.Conv2d(3, 4, 2),
        stem=nn.Sequential(OrderedDict(bn=LAYERS[system][0](4))),
        norm=nn.LayerNorm(5),
        free=LAYERS[system][0 if affine else 1](4),
    )
    return nn.Sequential(layers).double()


def trained(system: str) -> nn.Sequential:
    """With numbers that no constructor makes, where they may be trained."""
    model = network(system)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.rand_like(parameter) + 2)
        for buffer in model.buffers():
            buffer.copy_(torch.rand(buffer.shape) + 3)
    return model


def loaded(state: dict[str, Any], system: str) -> nn.Sequential:
    model = network(system, affine=any(f"free.{name}" in state for name in ("weight", "gamma")))
    model.load_state_dict(state)
    return model


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Keys, shapes, dtypes and values."""
    torch.testing.assert_close(got, dict(expected), rtol=0, atol=0)


@both_ways
def test_another_system_computes_the_same(source: str, target: str) -> None:
    model = trained(source)
    converted = convert(model.state_dict(), source, target)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    expected = model.eval()(x)
    got = loaded(converted, target).eval()(x)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)


@both_ways
def test_there_and_back(source: str, target: str) -> None:
    state = trained(source).state_dict()
    back = convert(convert(state, source, target), target, source)
    # What the other system cannot hold, or cannot do without.
    counts = SYSTEMS[source].counts and SYSTEMS[target].counts
    expected = {
        name: value if counts or not name.endswith(COUNT) else torch.zeros_like(value)
        for name, value in state.items()
    }
    added = {"free.weight", "free.bias"} & (back.keys() - state.keys())
    assert bool(added) == (SYSTEMS[target].constants and not SYSTEMS[source].constants)
    for name, constant in zip(sorted(added), (0.0, 1.0), strict=False):  # bias, weight
        assert (back.pop(name) == constant).all()
    assert_same(back, expected)


@both_ways
def test_arrays_in_a_file(source: str, target: str, tmp_path: Path) -> None:
    state = trained(source).state_dict()
    expected = convert(state, source, target)
    exported = {name: value.numpy() for name, value in state.items()}
    arrays = convert(exported, source, target, numpy=True)
    assert {type(value) for value in arrays.values()} == {np.ndarray}
    np.savez(tmp_path / "weights.npz", **arrays)
    with np.load(tmp_path / "weights.npz") as file:
        again = dict(file)
        assert_same(convert(file, target, target), expected)
    # Also without a conversion, by the layers themselves; torch's take tensors only.
    if target != "torch":
        layers = {
            name: torch.tensor(v) for name, v in again.items() if name[:4] in ("conv", "norm")
        }
        again.update(layers)
        assert_same(dict(loaded(again, target).state_dict()), expected)


def test_other_entries_keep_names_and_values() -> None:
    model = trained("paddle")
    kept = object()
    texts = np.array(["a", "b"])
    state = {**model.state_dict(), "epoch": 3, "optimizer": {"weight": kept}, "texts": texts}
    for numpy in (False, True):
        converted = convert(state, "paddle", "mxnet", numpy=numpy)
        assert converted["epoch"] == 3
        assert converted["optimizer"]["weight"] is kept
        assert converted["texts"] is texts
        for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias"):
            np.testing.assert_array_equal(np.asarray(converted[name]), state[name].numpy())
    assert not any(name in converted for name in ("stem.bn.weight", "stem.bn._mean"))


def vectors(count: int = 4) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(1).uniform(1, 2, size=(count, 3)).astype(np.float32)
    return dict(zip(("gamma", "beta", "mean", "var"), numbers, strict=False))


@pytest.mark.parametrize("running", ["running", "moving"])
@pytest.mark.parametrize(
    ("prefix", "arg", "aux"),
    [("batchnorm0_", "", ""), ("bn0_", "arg:", "aux:"), ("net/bn/", "", ""), ("", "", "")],
)
def test_flat_names_of_mxnet(prefix: str, arg: str, aux: str, running: str) -> None:
    given = vectors()
    state = {
        f"{arg}{prefix}gamma": given["gamma"],
        f"{arg}{prefix}beta": given["beta"],
        f"{aux}{prefix}{running}_mean": given["mean"],
        f"{aux}{prefix}{running}_var": given["var"],
        f"{arg}dense0_weight": given["var"],
    }
    names = [f"{prefix}{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    expected = {name: torch.tensor(v) for name, v in zip(names, given.values(), strict=True)}
    expected[f"{prefix}{COUNT}"] = torch.tensor(0)
    expected["dense0_weight"] = torch.tensor(given["var"])
    assert_same(convert(state, "mxnet"), expected)


def test_flat_vectors_of_older_megengine() -> None:
    given = vectors()
    state = {"bn.weight": given["gamma"], "bn.bias": given["beta"]}
    wide = {f"bn.running_{name}": given[name].reshape(1, 3, 1, 1) for name in ("mean", "var")}
    converted = convert({**state, **wide}, "megengine")
    assert {tuple(v.shape) for v in converted.values()} == {(3,), ()}
    same = convert({**state, **wide}, "megengine", "megengine")
    assert {tuple(v.shape) for v in same.values()} == {(1, 3, 1, 1)}
    nn.Sequential(OrderedDict(bn=megengine.SyncBatchNorm(3))).load_state_dict(state | wide)


@pytest.mark.parametrize("through_a_file", [True, False])
def test_bfloat16_arrays(through_a_file: bool, tmp_path: Path) -> None:
    given = {name: value.astype(ml_dtypes.bfloat16) for name, value in vectors().items()}
    names = ("weight", "bias", "_mean", "_variance")
    state: Any = {f"bn.{name}": v for name, v in zip(names, given.values(), strict=True)}
    if through_a_file:  # where NumPy forgets the dtype
        np.savez(tmp_path / "short.npz", **state)
        state = np.load(tmp_path / "short.npz")
    converted = convert(state, "paddle")
    assert converted["bn.weight"].dtype == torch.bfloat16
    arrays = convert(state, "paddle", numpy=True)
    assert arrays["bn.running_var"].dtype == np.float32
    np.testing.assert_array_equal(arrays["bn.running_var"], given["var"].astype(np.float32))
    layer = nn.Sequential(OrderedDict(bn=paddle.SyncBatchNorm(3)))
    layer.load_state_dict({**state})
    assert layer.bn._variance.equal(converted["bn.running_var"].float())


@pytest.mark.parametrize("given", [np.arange(3.0)[::-1], np.arange(3, dtype=">f4")])
def test_arrays_of_any_strides_and_byte_order(given: np.ndarray) -> None:
    state = {"bn.running_mean": given, "bn.running_var": np.ones(3), "other": given}
    converted = convert(state, "torch")
    assert converted["bn.running_mean"].tolist() == converted["other"].tolist() == given.tolist()
    layer = nn.Sequential(OrderedDict(bn=mmcv.SyncBatchNorm(3, affine=False)))
    layer.load_state_dict({name: state[name] for name in state if name != "other"})
    assert layer.bn.running_mean.tolist() == given.tolist()


def test_the_source_is_left_alone() -> None:
    model = trained("torch")
    state = model.state_dict()
    names = list(state)
    converted = convert(state, "torch", "megengine", numpy=True)
    assert list(state) == names
    assert state["stem.bn.weight"].shape == (4,)
    assert converted["stem.bn.weight"].shape == (1, 4, 1, 1)


@pytest.mark.parametrize("argument", ["source", "target"])
def test_unknown_systems_are_refused(argument: str) -> None:
    systems = {"source": "torch", "target": "torch", argument: "caffe"}
    with pytest.raises(
        ValueError, match=f"{argument}: got 'caffe', expected one of torch, .*mxnet"
    ):
        convert({}, **systems)


def test_no_batch_normalization_is_refused() -> None:
    state = {f"fc{index}.weight": torch.ones(2) for index in range(6)}
    message = r"no batch normalization of paddle, expected .* end in _mean and _variance; got fc0.*"
    with pytest.raises(ValueError, match=message + "fc3.weight and 2 more"):
        convert(state, "paddle")
    model = trained("torch")
    with pytest.raises(ValueError, match="found no batch normalization of paddle"):
        convert(model.state_dict(), "paddle")
    with pytest.raises(ValueError, match="found no batch normalization of torch"):
        convert({"running_mean": 3, "running_var": 4, "mean": torch.ones(2)}, "torch")


COLLISIONS: dict[str, tuple[str, list[str]]] = {
    "of another layer": ("paddle", ["bn._mean", "bn._variance", "bn.running_mean"]),
    "of two spellings": ("mxnet", ["running_mean", "running_var", "moving_mean", "moving_var"]),
    "without its mark": ("mxnet", ["bn_running_mean", "bn_running_var", "aux:bn_running_mean"]),
    "of two marks": ("mxnet", ["bn_running_mean", "bn_running_var", "arg:a", "aux:a"]),
}


@pytest.mark.parametrize(("source", "names"), COLLISIONS.values(), ids=COLLISIONS.keys())
@pytest.mark.parametrize("target", ["torch", "encoding"])
def test_two_entries_of_one_name_are_refused(source: str, names: list[str], target: str) -> None:
    state: dict[str, Tensor] = {name: torch.ones(2) for name in names}
    with pytest.raises(ValueError, match="state: two entries would be called "):
        convert(state, source, target)
