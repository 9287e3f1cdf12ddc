"""LazySyncBatchNorm: the number of channels comes with the first input or the first state."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from syncnorm.comm import thread_group
from syncnorm.torch import (
    LazySyncBatchNorm,
    LazySyncBatchNorm1d,
    LazySyncBatchNorm2d,
    LazySyncBatchNorm3d,
    SyncBatchNorm,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    SyncBatchNorm3d,
    convert_sync_batchnorm,
)

OPTIONS = {
    "weighting": "equal",
    "activation": "leaky_relu",
    "negative_slope": 0.25,
    "timeout": 3.0,
}


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 7), (3, 5, 4, 6), (2, 5, 3, 4, 2)])
def test_the_first_input_makes_it_a_sync_batch_norm(shape: tuple) -> None:
    lazy = LazySyncBatchNorm(1e-3, 0.3, dtype=torch.float64, name="stem", **OPTIONS)
    other = SyncBatchNorm(5, 1e-3, 0.3, dtype=torch.float64, name="stem", **OPTIONS)
    assert lazy.has_uninitialized_params()
    assert lazy.num_features == 0
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(lazy(x, residual=x), other(x, residual=x))
    assert type(lazy) is SyncBatchNorm
    assert repr(lazy) == repr(other)
    assert lazy.layer_name == "stem"
    torch.testing.assert_close(lazy.state_dict(), other.state_dict())
    with pytest.raises(ValueError, match="expected 5 channels"):
        lazy(torch.randn(2, 4))


def test_options_are_kept_and_checked() -> None:
    comm = thread_group(2)[0]
    lazy = LazySyncBatchNorm(affine=False, process_group=comm, freeze=True)
    assert lazy.process_group is comm
    assert lazy.freeze
    for wrong in ({"weighting": "median"}, {"timeout": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LazySyncBatchNorm(**wrong)
    with pytest.raises(ValueError, match="track_running_stats"):
        LazySyncBatchNorm(freeze=True, track_running_stats=False)


@pytest.mark.parametrize("arguments", [{"affine": False}, {"bias": False}])
def test_without_affine_or_bias(arguments: dict) -> None:
    lazy = LazySyncBatchNorm(**arguments)
    lazy(torch.randn(4, 5))
    assert lazy.bias is None
    assert (lazy.weight is None) == ("affine" in arguments)
    assert lazy.running_mean.shape == (5,)


def test_a_list_is_as_good_as_a_tensor() -> None:
    lazy = LazySyncBatchNorm()
    lazy([torch.randn(4, 5), torch.randn(2, 5)])
    assert lazy.num_features == 5


def test_an_input_without_channels_is_refused_and_changes_nothing() -> None:
    lazy = LazySyncBatchNorm()
    with pytest.raises(ValueError, match="at least 2D input"):
        lazy(torch.randn(5))
    assert lazy.has_uninitialized_params()


def test_a_state_dict_brings_the_shapes() -> None:
    lazy = LazySyncBatchNorm()
    lazy.load_state_dict(nn.BatchNorm2d(5).state_dict(), strict=True)
    assert lazy.weight.shape == (5,)
    with pytest.raises(ValueError, match="expected 5 channels"):
        lazy(torch.randn(3, 4))
    lazy(torch.randn(3, 5))
    assert type(lazy) is SyncBatchNorm
    assert lazy.num_features == 5


def test_a_state_without_shapes_loads_into_a_layer_without_shapes() -> None:
    ours, theirs = LazySyncBatchNorm(), nn.LazyBatchNorm2d()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours.has_uninitialized_params()


def test_a_pickle_before_the_first_input() -> None:
    lazy = LazySyncBatchNorm(activation="relu")
    loaded = pickle.loads(pickle.dumps(lazy))
    y = loaded(torch.randn(4, 5))
    assert (y >= 0).all()
    assert type(loaded) is SyncBatchNorm
    assert type(lazy) is LazySyncBatchNorm
    assert lazy.has_uninitialized_params()


def test_a_layer_without_parameters_and_buffers_learns_its_channels() -> None:
    lazy = LazySyncBatchNorm(affine=False, track_running_stats=False)
    lazy(torch.randn(4, 5))
    assert type(lazy) is SyncBatchNorm
    assert lazy.num_features == 5


@pytest.mark.parametrize(
    ("kind", "lazy", "becomes", "shape"),
    [
        (nn.LazyBatchNorm1d, LazySyncBatchNorm1d, SyncBatchNorm1d, (3, 5)),
        (nn.LazyBatchNorm2d, LazySyncBatchNorm2d, SyncBatchNorm2d, (3, 5, 2, 2)),
        (nn.LazyBatchNorm3d, LazySyncBatchNorm3d, SyncBatchNorm3d, (3, 5, 2, 2, 2)),
    ],
)
def test_the_lazy_layers_of_torch_are_converted(
    kind: type[nn.Module], lazy: type, becomes: type, shape: tuple
) -> None:
    calls: list[nn.Module] = []
    model = nn.Sequential(kind(eps=1e-3, momentum=None, bias=False))
    layer = model[0]
    handle = layer.register_forward_pre_hook(lambda module, _: calls.append(module))
    convert_sync_batchnorm(model, activation="relu")
    assert model[0] is layer
    assert type(layer) is lazy
    assert layer.has_uninitialized_params()
    y = model(torch.randn(shape))
    assert (y >= 0).all()
    assert type(layer) is becomes
    assert (layer.eps, layer.momentum, layer.bias) == (1e-3, None, None)
    assert calls == [layer]
    handle.remove()
    assert not layer._forward_pre_hooks
    assert not layer._load_state_dict_pre_hooks


def test_a_converted_lazy_layer_takes_its_shape_from_a_state_dict() -> None:
    model = convert_sync_batchnorm(nn.Sequential(nn.LazyBatchNorm2d()))
    model.load_state_dict(nn.Sequential(nn.BatchNorm2d(5)).state_dict(), strict=True)
    assert model[0].running_var.shape == (5,)
    with pytest.raises(ValueError, match=r"expected 4D input \(got 2D input\)"):
        model(torch.randn(3, 5))
    assert model(torch.randn(3, 5, 2, 2)).shape == (3, 5, 2, 2)
    assert type(model[0]) is SyncBatchNorm2d
