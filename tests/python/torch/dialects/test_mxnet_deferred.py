"""mxnet's layer without a number of channels: it comes with the first input or state dict."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from syncnorm.torch.mxnet import SyncBatchNorm

SHAPES = [(6, 5), (4, 5, 7), (3, 5, 4, 6), (2, 5, 3, 4, 2)]


def through_torch_save(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": through_torch_save,
}


def trained_state() -> dict[str, Tensor]:
    layer = SyncBatchNorm(5)
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.uniform_(1, 2)
    return layer.state_dict()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_the_first_input_brings_the_channels(shape: tuple, training: bool) -> None:
    deferred = SyncBatchNorm(gamma_initializer=2.0, beta_initializer="ones").train(training)
    made = SyncBatchNorm(5, gamma_initializer=2.0, beta_initializer="ones").train(training)
    x = torch.randn(shape)
    y, expected = deferred(x), made(x)
    assert torch.equal(y, expected)
    assert deferred.in_channels == 5
    for layer, output in ((deferred, y), (made, expected)):
        output.pow(3).sum().backward()
        assert layer.gamma.grad.any()
    torch.testing.assert_close(deferred.state_dict(), made.state_dict(), rtol=0, atol=0)
    assert repr(deferred) == repr(made)
    assert isinstance(deferred.gamma, nn.Parameter)


def test_the_first_list_brings_the_channels() -> None:
    layer = SyncBatchNorm()
    assert [y.shape for y in layer([torch.randn(0, 5), torch.randn(3, 5)])] == [(0, 5), (3, 5)]
    assert layer.in_channels == 5


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("as_arrays", [True, False])
def test_a_state_dict_brings_the_channels(as_arrays: bool, assign: bool) -> None:
    state = trained_state()
    given = {name: t.numpy() for name, t in state.items()} if as_arrays else state
    model = nn.Sequential(SyncBatchNorm())
    model.load_state_dict({f"0.{k}": v for k, v in given.items()}, strict=True, assign=assign)
    torch.testing.assert_close(model[0].state_dict(), state, rtol=0, atol=0)
    assert model[0].in_channels == 5
    assert model[0].gamma.requires_grad
    assert model(torch.randn(2, 5)).shape == (2, 5)


def test_another_input_must_have_the_same_channels() -> None:
    layer = SyncBatchNorm()
    layer(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"expected 5 channels in dimension 1 \(got 4"):
        layer(torch.randn(2, 4))
    with pytest.raises(ValueError, match="expected 5 channels"):
        layer([torch.randn(2, 5), torch.randn(2, 4)])


def test_an_input_without_channels_changes_nothing() -> None:
    layer = SyncBatchNorm()
    with pytest.raises(ValueError, match=r"expected at least 2D input \(got 1D input\)"):
        layer(torch.randn(5))
    assert layer.in_channels == 0
    assert layer.running_mean is None


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("in_channels", [0, 5])
def test_copies(how: str, in_channels: int) -> None:
    layer = SyncBatchNorm(in_channels, momentum=0.5, center=False, gamma_initializer="normal")
    state = trained_state()
    if in_channels:
        layer.load_state_dict(state)
    copied = COPIES[how](layer)
    assert repr(copied) == repr(layer)
    if in_channels:
        torch.testing.assert_close(copied.state_dict(), state, rtol=0, atol=0)
    before = copy.deepcopy(layer.state_dict())
    copied(torch.randn(3, 5)).pow(2).sum().backward()
    assert copied.in_channels == 5
    assert copied.running_mean.any()
    assert copied.beta.grad is None
    assert layer.in_channels == in_channels
    if in_channels:
        torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_a_state_without_shapes_loads_where_there_are_none() -> None:
    state, layer = SyncBatchNorm().state_dict(), SyncBatchNorm()
    layer.load_state_dict(state, strict=True)
    assert layer.in_channels == 0
    assert layer(torch.randn(3, 5)).shape == (3, 5)
    with pytest.raises(RuntimeError, match="uninitialized parameter"):
        SyncBatchNorm(5).load_state_dict(state)


def test_a_dtype_given_before_the_first_input_is_kept() -> None:
    layer = SyncBatchNorm(beta_initializer=0.1).double()
    y = layer(torch.randn(3, 5, dtype=torch.float64))
    tensors = layer.state_dict().values()
    assert {tensor.dtype for tensor in [y, *tensors]} == {torch.float64}
    assert layer.beta[0].item() == 0.1  # never was rounded to float32


def test_an_optimizer_from_before_the_first_input_trains_the_layer() -> None:
    layer = SyncBatchNorm()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    (layer(torch.randn(6, 5)) * torch.arange(1, 6)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.beta.detach(), -0.6 * torch.arange(1, 6))


def test_torch_says_what_it_cannot_do_before_the_first_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="uninitialized parameters can't be used with"):
            nn.parallel.DistributedDataParallel(nn.Sequential(SyncBatchNorm()))
    finally:
        dist.destroy_process_group()
    with pytest.raises(ValueError, match="uninitialized parameter"):
        sum(parameter.numel() for parameter in SyncBatchNorm().parameters())


def test_no_scale_in_a_state_dict_of_a_layer_that_scales() -> None:
    layer = SyncBatchNorm(scale=False)
    layer.load_state_dict(trained_state(), strict=True)
    assert torch.equal(layer.gamma, torch.ones(5))
    assert layer.beta.detach().min() >= 1
