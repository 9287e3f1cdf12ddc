"""Batch normalization with an activation module behind it: made, converted and reverted."""

from __future__ import annotations

import copy

import pytest
import torch
from stand_ins import TimmBatchNormAct, TimmSyncBatchNormAct
from torch import nn

from syncnorm.torch import (
    BatchNormAct,
    SyncBatchNorm,
    SyncBatchNormAct,
    SyncBatchNormAct2d,
    convert_sync_batchnorm,
    revert_sync_batchnorm,
)


def trained(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return layer


def assert_same_step(first: nn.Module, second: nn.Module) -> None:
    """In values, gradients and running statistics, in training and then in evaluation."""
    for mode in [True, False]:
        x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
        results = []
        for layer in (first.train(mode).double(), second.train(mode).double()):
            leaf = x.clone().requires_grad_()
            layer.zero_grad()
            torch.manual_seed(1)  # of the dropout
            y = layer(leaf)
            (y**2).sum().backward()
            results.append([y, leaf.grad, *(p.grad for p in layer.parameters())])
        torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(second.state_dict(), first.state_dict())


ACTIVATIONS = [
    lambda: nn.ReLU(inplace=True),
    lambda: nn.SiLU(inplace=True),
    lambda: nn.PReLU(4),
    nn.Identity,
]


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("drop", [None, nn.Dropout2d])
def test_timms_layer_keeps_its_activation_and_drop(act: object, drop: object) -> None:
    old = trained(TimmBatchNormAct(4, act(), drop and drop(0.5)))
    original, act_module, drop_module = copy.deepcopy(old), old.act, old.drop
    state = list(old.state_dict())
    model = nn.Sequential(old)
    convert_sync_batchnorm(model)
    assert type(model[0]) is SyncBatchNormAct2d
    assert isinstance(model[0], nn.BatchNorm2d)
    assert model[0].act is act_module
    assert model[0].drop is drop_module
    assert list(model[0].state_dict()) == state
    assert_same_step(original, model[0])
    revert_sync_batchnorm(model)
    assert type(model[0]) is TimmBatchNormAct
    assert model[0].act is act_module
    assert_same_step(original, model[0])


def test_hooks_of_the_activation_are_called_there_and_back() -> None:
    calls: list[nn.Module] = []
    model = nn.Sequential(TimmBatchNormAct(4, nn.ReLU()))
    act = model[0].act
    act.register_forward_hook(lambda module, *_: calls.append(module))
    for replace in (convert_sync_batchnorm, revert_sync_batchnorm):
        replace(model)(torch.randn(2, 4, 3, 3))
    assert calls == [act, act]


def test_timms_synchronized_layer_is_taken_over_and_becomes_one_for_one_rank() -> None:
    theirs = TimmSyncBatchNormAct(4)
    theirs.drop, theirs.act = nn.Identity(), nn.SiLU()
    model = nn.Sequential(trained(theirs))
    assert type(revert_sync_batchnorm(copy.deepcopy(model))[0]) is BatchNormAct
    convert_sync_batchnorm(model)
    assert type(model[0]) is SyncBatchNormAct
    converted = copy.deepcopy(model)
    revert_sync_batchnorm(model)
    assert type(model[0]) is BatchNormAct
    assert_same_step(converted, model)


def test_a_layer_built_otherwise_is_left_alone() -> None:
    layer = TimmBatchNormAct(4, nn.ReLU())
    layer.blur = nn.AvgPool2d(2)
    with pytest.warns(UserWarning, match=r"has the submodules \['act', 'blur', 'drop'\]"):
        assert convert_sync_batchnorm(layer) is layer


@pytest.mark.parametrize(
    ("options", "act"),
    [
        ({"activation": "relu"}, nn.ReLU),
        ({"activation": "elu"}, nn.ELU),
        ({"activation": "leaky_relu", "negative_slope": 0.25}, nn.LeakyReLU),
    ],
)
@pytest.mark.parametrize("origin", [None, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_a_fused_activation_is_reverted_to_a_module(
    origin: type[nn.Module] | None, options: dict, act: type[nn.Module]
) -> None:
    layer = SyncBatchNorm(4, **options)
    if origin is not None:
        layer = convert_sync_batchnorm(origin(4), **options)
    trained(layer)
    kept = copy.deepcopy(layer)
    back = revert_sync_batchnorm(layer)
    assert type(back) is BatchNormAct
    assert type(back.act) is act
    assert back.act.training == back.training
    assert_same_step(kept, back)
    again = convert_sync_batchnorm(back)
    assert type(again) is SyncBatchNormAct
    assert_same_step(kept, again)
    assert type(revert_sync_batchnorm(again)) is BatchNormAct


def test_a_residual_is_added_before_the_modules() -> None:
    x, residual = torch.randn(2, 3, 4, 2, 2)
    layer = SyncBatchNormAct(4, act=nn.ReLU(), drop=nn.Dropout(0.0))
    plain = SyncBatchNorm(4)
    expected = (plain(x) + residual).relu()
    torch.testing.assert_close(layer(x, residual), expected)
    torch.testing.assert_close(layer([x], [residual]), [expected])
    torch.testing.assert_close(BatchNormAct(4, act=nn.ReLU())(x, residual), expected)


def test_two_activations_are_not_reverted() -> None:
    layer = SyncBatchNormAct(4, act=nn.SiLU(), activation="relu")
    with pytest.warns(UserWarning, match="has activation='relu'"):
        assert revert_sync_batchnorm(layer) is layer


def test_without_modules_it_is_the_plain_layer() -> None:
    x = torch.randn(3, 4)
    torch.testing.assert_close(SyncBatchNormAct(4)(x), SyncBatchNorm(4)(x))
    assert type(revert_sync_batchnorm(SyncBatchNormAct(4))) is BatchNormAct


def test_a_two_dimensional_layer_keeps_its_modules_on_the_way_back() -> None:
    layer = SyncBatchNormAct2d(3, act=nn.ReLU())
    x = torch.randn(4, 3, 2, 2)
    expected = layer(x)
    back = revert_sync_batchnorm(layer)
    assert type(back) is BatchNormAct
    torch.testing.assert_close(back(x), expected)
    converted = convert_sync_batchnorm(nn.BatchNorm2d(3), layer=SyncBatchNormAct2d)
    assert type(revert_sync_batchnorm(converted)) is BatchNormAct
