"""Layers that are copied or pickled, how they are shown, and attributes that may be set."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from thread_layers import random_arrays, trained

import syncnorm
from syncnorm.comm import thread_group
from syncnorm.numpy import SyncBatchNorm


def with_everything(**more: Any) -> SyncBatchNorm:
    """A layer with nothing at its default, a gradient, and a call without its backward."""
    arguments = {"eps": 1e-3, "momentum": None, "activation": "relu", "dtype": "float64", **more}
    layer = trained(SyncBatchNorm((3, 5), running_var_init=0.0, num_threads=1, **arguments))
    x, dy = random_arrays([(4, 3, 5)] * 2, 1)
    layer(x)
    layer.backward(dy)
    layer(x)
    layer.label = "mine"
    return layer


def duplicates() -> list[Any]:
    return [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]


@pytest.mark.parametrize("duplicate", duplicates(), ids=["deepcopy", "pickle"])
def test_a_duplicate_computes_the_same_with_arrays_of_its_own(duplicate: Any) -> None:
    layer = with_everything().eval()
    other = duplicate(layer)
    assert type(other) is SyncBatchNorm
    assert repr(other) == repr(layer)
    assert (other.training, other.label, other.num_threads) == (False, "mine", 1)
    assert other.weight_grad is None
    assert other.bias_grad is None
    assert other.outstanding == 0
    x, dy = random_arrays([(4, 3, 5)] * 2, 2)
    layer.clear()
    layer.zero_grad()
    for each in (layer, other):
        each.train()(x)
        each.backward(dy)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        mine, its = getattr(layer, name), getattr(other, name)
        np.testing.assert_array_equal(its, mine)
        assert not np.shares_memory(its, mine)
    np.testing.assert_array_equal(other.weight_grad, layer.weight_grad)
    other.reset_running_stats()
    assert not other.running_var.any()


def test_a_pickle_keeps_bfloat16() -> None:
    layer = trained(SyncBatchNorm(3, dtype=ml_dtypes.bfloat16))
    other = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(other.weight, layer.weight)
    assert other.weight.dtype == ml_dtypes.bfloat16


def test_a_copy_has_the_same_communicator() -> None:
    (comm,) = thread_group(1)
    layer = SyncBatchNorm(3, comm=comm)
    assert copy.deepcopy(layer).comm is comm
    assert copy.copy(layer).comm is comm


def test_a_shallow_copy_shares_arrays_and_has_calls_of_its_own() -> None:
    layer = with_everything()
    other = copy.copy(layer)
    assert other.weight is layer.weight
    assert (layer.outstanding, other.outstanding) == (1, 0)


def test_a_deep_copy_of_a_model_keeps_what_its_parts_share() -> None:
    layer = SyncBatchNorm(3)
    for model in ({"norm": layer, "weights": [layer.weight]}, {"w": [layer.weight], "n": layer}):
        parts = copy.deepcopy(model).values()
        (norm,) = (part for part in parts if isinstance(part, SyncBatchNorm))
        ((weight,),) = (part for part in parts if isinstance(part, list))
        assert weight is norm.weight
        assert weight is not layer.weight


def test_a_pickle_holds_no_communicator_and_says_so() -> None:
    (comm,) = thread_group(1)
    layer = pickle.loads(pickle.dumps(SyncBatchNorm(3, comm=comm)))
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(layer.eval()(x), 1, rtol=1e-4)  # no rank talks to another
    lost = r"without its communicator, Communicator\(kind='threads', rank=0, size=1\); set"
    for unset in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with pytest.raises(syncnorm.InvalidArgumentError, match=lost):
            unset.train()(x)
    layer.comm = comm
    layer(x)
    assert layer.comm is comm
    assert "size=1" in repr(layer)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({}, "SyncBatchNorm(3)"),
        ({"eps": 1e-3, "momentum": None}, "SyncBatchNorm(3, eps=0.001, momentum=None)"),
        ({"affine": False}, "SyncBatchNorm(3, affine=False)"),
        ({"weight": False, "axis": -1}, "SyncBatchNorm(3, axis=-1, weight=False)"),
        (
            {"dtype": np.float64, "track_running_stats": False, "activation": "relu"},
            "SyncBatchNorm(3, dtype='float64', track_running_stats=False, activation='relu')",
        ),
    ],
)
def test_repr_has_what_is_not_the_default(arguments: dict[str, Any], shown: str) -> None:
    layer = SyncBatchNorm(3, **arguments)
    assert repr(layer) == shown
    assert repr(eval(shown)) == shown


def test_settings_are_attributes_that_are_checked() -> None:
    layer = SyncBatchNorm(3, eps=1e-3)
    layer.momentum, layer.weighting = None, "equal"
    assert (layer.eps, layer.momentum, layer.weighting) == (1e-3, None, "equal")
    assert layer.settings == {"eps": 1e-3, "momentum": None, "weighting": "equal"}
    layer.eps = 1e-5
    assert layer.settings == {"momentum": None, "weighting": "equal"}
    with pytest.raises(syncnorm.InvalidArgumentError, match="weighting"):
        layer.weighting = "average"
    with pytest.raises(TypeError, match="comm: got str"):
        layer.comm = "world"
    assert (layer.weighting, layer.comm) == ("equal", None)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_features": -1}, ValueError, "num_features: got -1"),
        ({"num_features": ()}, ValueError, r"num_features: got \(\)"),
        ({"num_features": 2.5}, TypeError, "float"),
        ({"axis": (1, 2)}, ValueError, r"axis: got \(1, 2\), expected as many axes"),
        ({"dtype": "int64"}, ValueError, "dtype: got 'int64', expected float16"),
        ({"dtype": "float33"}, ValueError, "dtype: got 'float33'"),
        ({"eps": -1.0}, ValueError, "eps"),
        ({"momentum": 2.0}, ValueError, "momentum"),
        ({"activation": "tanh"}, ValueError, "activation"),
        ({"decay": 0.9}, TypeError, "unexpected argument 'decay'"),
        ({"comm": 3}, TypeError, "comm: got int"),
    ],
)
def test_arguments_that_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SyncBatchNorm(**{"num_features": 3, **arguments})
