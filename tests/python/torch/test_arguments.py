"""The layer's arguments and attributes: shown, refused, changed later, reset."""

from __future__ import annotations

import copy

import pytest
import torch
from shard_reference import normalize_shards
from torch import nn

from syncnorm.torch import SyncBatchNorm


def trained_layer(dtype: torch.dtype) -> SyncBatchNorm:
    layer = SyncBatchNorm(5, dtype=dtype)
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.copy_(torch.rand(tensor.shape) + 3)
    return layer


def test_options_changed_after_construction_are_used() -> None:
    layer = SyncBatchNorm(5, affine=False, track_running_stats=False)
    x = torch.randn(6, 5, dtype=torch.float64)
    layer(x)
    layer.eps, layer.activation = 0.5, "relu"
    torch.testing.assert_close(layer(x), normalize_shards([x], eps=0.5, activation="relu").ys[0])


def test_representation_is_that_of_torch_with_what_is_not_default() -> None:
    theirs = repr(nn.SyncBatchNorm(5, eps=1e-3))
    assert repr(SyncBatchNorm(5, eps=1e-3, name="stem.norm")) == theirs
    layer = SyncBatchNorm(
        5, eps=1e-3, weighting="equal", activation="relu", freeze=True, timeout=2.5
    )
    chosen = ", weighting='equal', activation='relu', freeze=True, timeout=2.5)"
    assert repr(layer) == theirs[:-1] + chosen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.5}, "momentum"),
        ({"weighting": "median"}, "weighting: got 'median', expected one of 'count'"),
        ({"activation": "gelu"}, "activation"),
        ({"activation": "relu", "in_place": True}, "in_place"),
        ({"freeze": True, "track_running_stats": False}, "track_running_stats=True"),
        ({"timeout": 0}, "timeout: got 0, expected seconds from 0.001 to 1e\\+07, or None"),
        ({"timeout": float("nan")}, "timeout"),
    ],
)
def test_refused_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyncBatchNorm(5, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": 1}, "weighting: got 1, expected a string of Python"),
        ({"momentum": "x"}, "momentum: got 'x', expected a number or None of Python"),
        ({"negative_slope": [0.1]}, r"negative_slope: got \[0.1\], expected a number of Python"),
    ],
)
def test_the_option_of_a_wrong_type_is_named(options: dict, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}$"):
        SyncBatchNorm(5, **options)


def test_a_mask_in_place_of_a_residual_is_explained() -> None:
    x = torch.randn(3, 2, 4)
    with pytest.raises(ValueError, match=r"residual: .*; pass a mask as mask=$"):
        SyncBatchNorm(2)(x, torch.ones(3, 4, dtype=torch.bool))


# After the error dynamo traces the functions that the layer calls.
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("eps", [0.0, -1.0, 0, -1e-5])
@pytest.mark.parametrize("compiled", [False, True])
def test_eps_is_refused_where_torch_refuses_it(eps: float, compiled: bool) -> None:
    x = torch.randn(4, 5)
    for layer in (nn.BatchNorm1d(5, eps=eps), SyncBatchNorm(5, eps=eps)):
        call = torch.compile(layer, backend="eager") if compiled else layer
        with pytest.raises(Exception, match="eps must be positive"):
            call(x)
        assert not layer.running_mean.any()
        layer.eval()
        if eps < 0:
            with pytest.raises(ValueError, match="eps"):
                layer(x)
        else:
            torch.testing.assert_close(layer(x), x)
    with pytest.raises(ValueError, match="eps must be positive"):
        SyncBatchNorm(5, eps=eps)([x, x])


@pytest.mark.parametrize(
    ("shape", "message"),
    [((5,), "at least 2D input"), ((2, 4), r"expected 5 channels in dimension 1 \(got 4")],
)
def test_refused_inputs(shape: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyncBatchNorm(5)(torch.randn(shape))


def test_six_dimensions_are_as_good_as_five() -> None:
    x = torch.randn(2, 5, 2, 1, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(SyncBatchNorm(5)(x), normalize_shards([x]).ys[0])


def test_parameters_and_running_statistics_are_reset() -> None:
    layer = trained_layer(torch.float32)
    layer(torch.randn(4, 5))
    weight = layer.weight.detach().clone()
    layer.reset_running_stats()
    assert not layer.running_mean.any()
    assert (layer.running_var == 1).all()
    assert layer.num_batches_tracked.item() == 0
    assert torch.equal(layer.weight, weight)
    layer.reset_parameters()
    assert (layer.weight == 1).all()
    assert not layer.bias.any()


def test_running_statistics_that_are_no_longer_tracked_stay_and_serve_evaluation() -> None:
    layer = trained_layer(torch.float64)
    before = copy.deepcopy(layer.state_dict())
    layer.track_running_stats = False
    x = torch.randn(6, 5, dtype=torch.float64)
    layer(x)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    theirs = nn.BatchNorm1d(5, dtype=torch.float64).eval()
    theirs.load_state_dict(before)
    torch.testing.assert_close(layer.eval()(x), theirs(x))
