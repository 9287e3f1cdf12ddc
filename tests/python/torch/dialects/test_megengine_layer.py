"""megengine's layer and function: shapes, frozen layers, buffers and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from syncnorm.comm import thread_group
from syncnorm.torch.megengine import WORLD, SyncBatchNorm, sync_batch_norm

SHAPE = (1, 5, 1, 1)
INPUTS = [(6, 5), (4, 5, 7), (3, 5, 4, 6)]


@pytest.mark.parametrize("shape", INPUTS)
def test_parameters_gradients_and_buffers_have_four_dimensions(shape: tuple[int, ...]) -> None:
    layer = SyncBatchNorm(5)
    y = layer(torch.randn(shape))
    assert y.shape == shape
    y.pow(2).sum().backward()
    state = layer.state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var"]
    assert {tensor.shape for tensor in state.values()} == {SHAPE}
    assert layer.weight.grad.shape == layer.bias.grad.shape == SHAPE


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
@pytest.mark.parametrize("flat", [["weight", "bias"], ["running_mean"], ["weight", "running_var"]])
def test_vectors_of_older_versions_load(flat: list[str], kind: Any) -> None:
    names = ["weight", "bias", "running_mean", "running_var"]
    values = {name: (torch.randn(5) + index).tolist() for index, name in enumerate(names)}
    shapes = {name: (5,) if name in flat else SHAPE for name in names}
    state = {name: kind(values[name]).reshape(shapes[name]) for name in names}
    layer = SyncBatchNorm(5)
    layer.load_state_dict(state, strict=True)
    for name in names:
        assert getattr(layer, name).shape == SHAPE
        torch.testing.assert_close(getattr(layer, name).flatten(), torch.tensor(values[name]))
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict({**state, "weight": kind([1.0] * 4)})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", INPUTS)
def test_a_frozen_layer(shape: tuple[int, ...], training: bool) -> None:
    layer = SyncBatchNorm(5, freeze=True, dtype=torch.float64).train(training)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1, 6).reshape(SHAPE))
        layer.bias.fill_(0.5)
        layer.running_mean.fill_(2)
        layer.running_var.fill_(3)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x, dy = torch.randn(2, *shape, dtype=torch.float64)
    y = layer(x.requires_grad_())
    y.backward(dy)
    scale = (torch.arange(1, 6) / (3 + 1e-5) ** 0.5).reshape(1, 5, *[1] * (len(shape) - 2))
    torch.testing.assert_close(y, (x - 2) * scale + 0.5)
    torch.testing.assert_close(x.grad, dy * scale)
    assert (layer.weight.grad, layer.bias.grad) == (None, None)
    assert layer.weight.requires_grad
    torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)
    assert not layer(x.detach()).requires_grad


def test_a_layer_is_frozen_and_thawed_by_its_attribute() -> None:
    layer = SyncBatchNorm(5)
    layer.freeze = True
    layer(torch.randn(3, 5))
    assert not layer.running_mean.any()
    layer.freeze = False
    layer(torch.randn(3, 5)).sum().backward()
    assert layer.running_mean.any()
    assert layer.bias.grad is not None


@pytest.mark.parametrize("training", [True, False])
def test_buffers_are_written_in_place_and_autograd_is_told(training: bool) -> None:
    layer = SyncBatchNorm(5).train(training)
    buffers = layer.running_mean, layer.running_var
    products = [(torch.ones(SHAPE, requires_grad=True) * buffer).sum() for buffer in buffers]
    versions = [buffer._version for buffer in buffers]
    layer(torch.randn(3, 5))
    assert (layer.running_mean, layer.running_var) == buffers
    assert [b._version > v for b, v in zip(buffers, versions, strict=True)] == [training] * 2
    for product in products:
        if training:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product.backward()
        else:
            product.backward()


def function(**options: Any) -> tuple[Tensor, list[Tensor]]:
    mean, var = torch.full(SHAPE, 2.0), torch.full((5,), 3.0)
    x = torch.arange(30, dtype=torch.float32).reshape(6, 5)
    return sync_batch_norm(x, mean, var, **options), [x, mean, var]


def test_the_function_does_not_train_by_default() -> None:
    y, (x, mean, _) = function(eps=1.0)
    torch.testing.assert_close(y, (x - 2) / 2)
    assert torch.equal(mean, torch.full(SHAPE, 2.0))
    y, _ = function(eps=4.0, eps_mode="MAX", weight=torch.full(SHAPE, 4.0), bias=torch.ones(5))
    torch.testing.assert_close(y, 2 * (x - 2) + 1)


def test_the_function_moves_the_running_statistics_it_is_given() -> None:
    _, (x, mean, var) = function(training=True, momentum=0.75)
    torch.testing.assert_close(mean.flatten(), 0.75 * 2 + 0.25 * x.mean(0))
    torch.testing.assert_close(var, 0.75 * 3 + 0.25 * x.var(0))
    y = sync_batch_norm(x, None, None, training=True)
    torch.testing.assert_close(y, torch.nn.functional.batch_norm(x, None, None, training=True))


@pytest.mark.parametrize("mode", ["min", "", "add"])
@pytest.mark.parametrize("error", [ValueError, AssertionError])
def test_another_eps_mode_is_refused(mode: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^unknown eps_mode: {mode}, expected 'additive' or 'max'"):
        function(eps_mode=mode)


@pytest.mark.parametrize("error", [ValueError, AssertionError])
def test_a_layer_without_statistics_cannot_be_frozen(error: type[Exception]) -> None:
    message = "^track_running_stats must be initialized to True if freeze is True$"
    with pytest.raises(error, match=message):
        SyncBatchNorm(5, track_running_stats=False, freeze=True)


@pytest.mark.parametrize("shape", [(5,), (2, 5, 1, 1, 1)])
def test_another_number_of_dimensions_is_refused(shape: tuple[int, ...]) -> None:
    message = rf"^expected 2D, 3D or 4D input \(got {len(shape)}D input\)$"
    with pytest.raises(ValueError, match=message):
        SyncBatchNorm(5)(torch.zeros(shape))


@pytest.mark.parametrize("options", [{}, {"freeze": True}, {"track_running_stats": False}])
def test_another_number_of_channels_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected 5 channels in dimension 1 \(got 4 in an"):
        SyncBatchNorm(5, **options)(torch.zeros(2, 4))


def test_the_group() -> None:
    communicator = thread_group(2)[0]
    assert SyncBatchNorm(5).group is WORLD
    assert SyncBatchNorm(5, group=communicator).group is communicator
    with pytest.raises(TypeError, match="process_group: got str, expected"):
        SyncBatchNorm(5, group="world")(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"got the ranks \[0, 1\], expected different ranks"):
        SyncBatchNorm(5, group=[0, 1])(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"got the ranks \[3\]"):
        sync_batch_norm(torch.zeros(2, 5), None, None, training=True, group=[3])


def test_a_layer_starts_again() -> None:
    layer = SyncBatchNorm(5)
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.fill_(7)
    layer.reset_running_stats()
    assert layer.weight.eq(7).all()
    assert layer.running_var.eq(1).all()
    layer.reset_parameters()
    torch.testing.assert_close(layer.state_dict(), SyncBatchNorm(5).state_dict())


def test_tracking_that_ends_later_is_honoured() -> None:
    layer = SyncBatchNorm(5)
    layer(torch.randn(4, 5))
    layer.track_running_stats = False
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(6, 5)
    expected = torch.nn.functional.batch_norm(x, None, None, training=True)
    for training in (True, False):
        torch.testing.assert_close(layer.train(training)(x), expected)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    layer.track_running_stats = True
    mean = before["running_mean"].flatten()
    y = layer(x)
    torch.testing.assert_close(y, (x - mean) / (before["running_var"].flatten() + 1e-5).sqrt())
