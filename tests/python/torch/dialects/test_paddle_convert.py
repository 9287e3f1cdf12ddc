"""convert_sync_batchnorm of paddle, as a function and as a class method."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from thread_ranks import run_ranks
from torch import Tensor, nn

import syncnorm.torch
from syncnorm.comm import thread_group
from syncnorm.torch.paddle import SyncBatchNorm, convert_sync_batchnorm

Convert = Callable[[nn.Module], nn.Module]
BOTH = pytest.mark.parametrize(
    "convert", [convert_sync_batchnorm, SyncBatchNorm.convert_sync_batchnorm]
)


class WithOwnForward(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Renamed(nn.BatchNorm1d):
    pass


def trained(layer: nn.Module) -> nn.Module:
    """Numbers in parameters and buffers that no constructor makes."""
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.copy_(torch.rand(tensor.shape) + 1)
    return layer


@BOTH
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, Renamed]
)
def test_parameters_and_buffers_stay(kind: type, training: bool, convert: Convert) -> None:
    layer = trained(kind(3, eps=0.1, momentum=0.25)).train(training)
    layer.weight.requires_grad_(False)
    weight, bias, mean, var = layer.weight, layer.bias, layer.running_mean, layer.running_var
    assert convert(layer) is layer
    assert type(layer) is SyncBatchNorm
    assert layer.weight is weight
    assert layer.bias is bias
    assert layer._mean is mean
    assert layer._variance is var
    assert not layer.weight.requires_grad
    assert layer.training is training
    assert layer.running_mean is mean
    assert layer.running_var is var
    assert not any(hasattr(layer, name) for name in ("num_features", "eps", "affine"))
    assert repr(layer) == "SyncBatchNorm(num_features=3, momentum=0.75, epsilon=0.1)"
    assert list(layer.state_dict()) == ["weight", "bias", "_mean", "_variance"]


@BOTH
def test_a_network_computes_the_same(convert: Convert) -> None:
    def network() -> nn.Module:
        norms = nn.ModuleDict({"norm": trained(nn.BatchNorm2d(3))})
        return nn.Sequential(nn.Conv2d(2, 3, 1), trained(nn.BatchNorm2d(3)), norms).double()

    plain = network()
    converted = network()
    converted.load_state_dict(plain.state_dict())
    assert convert(converted) is converted
    assert type(converted[2]["norm"]) is SyncBatchNorm
    assert converted[2]["norm"].layer_name == "2.norm"
    for training in (True, False):
        x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
        results = []
        for model in (plain, converted):
            model.train(training).zero_grad()
            leaf = x.clone().requires_grad_()
            y = model[2]["norm"](model[1](model[0](leaf)))
            y.pow(3).sum().backward()
            results.append([y, leaf.grad, *(p.grad for p in model.parameters())])
            if training:  # the running variances differ: paddle's is the biased one
                with torch.no_grad():
                    for layer in (model[1], model[2]["norm"]):
                        list(layer.buffers())[1].fill_(2)
        torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


@BOTH
def test_a_layer_under_two_names_stays_one(convert: Convert) -> None:
    shared = nn.BatchNorm1d(3)
    model = convert(nn.Sequential(shared, nn.Sequential(shared)))
    assert type(model[0]) is SyncBatchNorm
    assert model[0] is model[1][0]
    assert convert(model)[0] is model[1][0]


@BOTH
def test_hooks_stay(convert: Convert) -> None:
    seen: list[nn.Module] = []
    old = nn.BatchNorm1d(3)
    handle = old.register_forward_hook(lambda module, *_: seen.append(module))
    new = convert(old)
    new(torch.zeros(2, 3))
    assert seen == [new]
    handle.remove()
    new(torch.zeros(2, 3))
    assert len(seen) == 1


@BOTH
@pytest.mark.parametrize("missing", [{"affine": False}, {"bias": False}])
def test_what_a_layer_lacks_is_constant(missing: dict[str, Any], convert: Convert) -> None:
    old = nn.BatchNorm1d(3, **missing, dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = old(x)
    new = convert(old)
    torch.testing.assert_close(new(x), expected)
    assert [p.requires_grad for p in (new.weight, new.bias)] == ["bias" in missing, False]
    assert torch.equal(new.bias, torch.zeros(3, dtype=torch.float64))


@BOTH
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: WithOwnForward(3), r"\(WithOwnForward\) defines forward"),
        (lambda: nn.BatchNorm1d(3, momentum=None), "has momentum=None"),
        (lambda: nn.BatchNorm1d(3, track_running_stats=False), "has no running statistics"),
        (
            lambda: nn.BatchNorm1d(3, momentum=0.0, track_running_stats=False),
            "has no running statistics",
        ),
        (nn.LazyBatchNorm1d, "is lazy: run one batch through it first"),
        (syncnorm.torch.LazySyncBatchNorm, "is lazy: run one batch through it first"),
        (lambda: syncnorm.torch.SyncBatchNorm(3, freeze=True), "has freeze=True"),
        (lambda: syncnorm.torch.SyncBatchNorm(3, weighting="equal"), "has weighting='equal'"),
        (lambda: syncnorm.torch.SyncBatchNorm(3, eps_mode="max"), "has eps_mode='max'"),
        (lambda: syncnorm.torch.SyncBatchNorm(3, activation="relu"), "has activation='relu'"),
        (lambda: syncnorm.torch.SyncBatchNorm(3, grad_reduction="mean"), "has grad_reduction='me"),
        (lambda: syncnorm.torch.SyncBatchNorm(3, in_place=True), "has in_place=True"),
        (
            lambda: syncnorm.torch.SyncBatchNormAct(3, act=nn.ReLU()),
            "has modules of its own: drop, act",
        ),
    ],
)
def test_what_paddle_has_no_layer_for_stays_with_a_warning(
    make: Callable[[], nn.Module], reason: str, convert: Convert
) -> None:
    old = make()
    model = nn.Sequential(nn.ModuleDict({"norm": old}), nn.BatchNorm1d(3))
    with pytest.warns(UserWarning, match=rf"left these as they are: 0\.norm .*{reason}") as caught:
        convert(model)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert model[0]["norm"] is old
    assert type(model[1]) is SyncBatchNorm


def test_statistics_that_were_switched_off_later_stay_so() -> None:
    old = nn.BatchNorm1d(3)
    old.track_running_stats = False
    with pytest.warns(UserWarning, match="the module itself .* has no running statistics"):
        assert convert_sync_batchnorm(old) is old


@BOTH
def test_other_layers_are_left_alone(convert: Convert) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for layer in [nn.InstanceNorm1d(3), nn.GroupNorm(1, 3), SyncBatchNorm(3)]:
            assert convert(layer) is layer


def test_a_plain_layer_of_syncnorm_is_taken_over_with_its_group() -> None:
    comm = thread_group(2)[0]
    new = convert_sync_batchnorm(syncnorm.torch.SyncBatchNorm(3, process_group=comm))
    assert type(new) is SyncBatchNorm
    assert new.process_group is comm


def test_a_converted_layer_trains_with_others() -> None:
    xs = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 5)]

    def body(rank: int, communicator: Any) -> list[Tensor]:
        layer = convert_sync_batchnorm(nn.BatchNorm1d(3, dtype=torch.float64))
        layer.process_group = communicator
        return [layer(xs[rank]), layer._variance]

    batch = torch.cat(xs)
    expected = (batch - batch.mean(0)) / (batch.var(0, unbiased=False) + 1e-5).sqrt()
    (first, variance), (second, _) = run_ranks(2, body)
    torch.testing.assert_close(torch.cat([first, second]), expected)
    torch.testing.assert_close(variance, 0.9 + 0.1 * batch.var(0, unbiased=False))
