"""timm's functions find the activation of converted layers."""

from __future__ import annotations

import copy
import io

import timm.layers
import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from timm.utils.model import freeze, unfreeze
from torch import nn

from syncnorm.torch import (
    SyncBatchNormAct2d,
    convert_sync_batchnorm,
    install,
    revert_sync_batchnorm,
)


def converted() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Return a model with trained statistics, the model converted, and an input."""
    layers = [nn.Conv2d(3, 3, 3), BatchNormAct2d(3), BatchNormAct2d(3, act_layer=nn.SiLU)]
    model = nn.Sequential(*layers).double()
    x = torch.randn(2, 3, 8, 8).double()
    model(x)
    return model.eval(), convert_sync_batchnorm(copy.deepcopy(model)), x


def test_frozen_layers_keep_their_activation() -> None:
    model, sync, x = converted()
    assert isinstance(sync[1], SyncBatchNormAct2d)
    assert isinstance(sync[1], BatchNormAct2d)
    torch.testing.assert_close(sync(x), model(x))
    freeze(sync)
    assert isinstance(sync[1], FrozenBatchNormAct2d)
    torch.testing.assert_close(sync(x), model(x))
    unfreeze(sync)
    torch.testing.assert_close(sync.eval()(x), model(x))


def test_training_copies_and_back() -> None:
    model, sync, x = converted()
    y = sync.train()(x)
    torch.testing.assert_close(y, model.train()(x))
    y.sum().backward()
    assert sync[1].weight.grad is not None
    file = io.BytesIO()
    torch.save(sync.eval(), file)
    file.seek(0)
    for each in (copy.deepcopy(sync), torch.load(file, weights_only=False)):
        assert type(each[1]) is type(sync[1])
        torch.testing.assert_close(each(x), sync(x))
    revert_sync_batchnorm(sync)
    assert type(sync[1]) is type(model[1])
    torch.testing.assert_close(sync(x), model.eval()(x))


def test_conversion_while_installed() -> None:
    expected = type(converted()[1][1])
    with install(eps_mode="max"):
        layer = nn.SyncBatchNorm.convert_sync_batchnorm(BatchNormAct2d(3))
        assert (type(layer), layer.eps_mode) == (expected, "max")
        layer = timm.layers.convert_sync_batchnorm(BatchNormAct2d(3))
        assert (type(layer), layer.eps_mode) == (timm.layers.SyncBatchNormAct, "max")
