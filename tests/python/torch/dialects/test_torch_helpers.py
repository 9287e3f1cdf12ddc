"""Code that looks for torch's _BatchNorm finds the layers of other systems: SWA and freezing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

from syncnorm.torch import convert_sync_batchnorm, megengine, mxnet, paddle, revert_sync_batchnorm

KINDS: dict[str, tuple[Callable[..., Any], int]] = {  # and the correction of their variance
    "mxnet": (lambda: mxnet.SyncBatchNorm(in_channels=3, dtype=torch.float64), 0),
    "mxnet, deferred": (lambda: mxnet.SyncBatchNorm(dtype=torch.float64), 0),
    "paddle": (lambda: paddle.SyncBatchNorm(3, dtype=torch.float64), 0),
    "megengine": (lambda: megengine.SyncBatchNorm(3, dtype=torch.float64), 1),
}
ALL = pytest.mark.parametrize(("make", "correction"), KINDS.values(), ids=KINDS.keys())
BATCHES = [torch.randn(6, 3, dtype=torch.float64) * scale + scale for scale in (1.0, 2.0, 5.0)]


def statistics(layer: Any) -> list[Tensor]:
    return [layer.running_mean.flatten(), layer.running_var.flatten()]


def averages(correction: int) -> list[Tensor]:
    means = torch.stack([x.mean(0) for x in BATCHES])
    variances = torch.stack([x.var(0, correction=correction) for x in BATCHES])
    return [means.mean(0), variances.mean(0)]


@ALL
def test_update_bn_averages_over_the_batches(make: Any, correction: int) -> None:
    model = nn.Sequential(make())
    model(BATCHES[2]).sum().backward()
    average = AveragedModel(model)
    for _ in range(2):  # the second starts again
        update_bn(BATCHES, average)
        torch.testing.assert_close(statistics(average.module[0]), averages(correction))
    assert average.module[0].momentum == model[0].momentum == 0.9


@ALL
def test_training_continues_with_the_momentum_of_before(make: Any, correction: int) -> None:
    model = nn.Sequential(make())
    update_bn(BATCHES, model)
    (x, *_), before = BATCHES, averages(correction)
    model(x).square().sum().backward()
    batch = [x.mean(0), x.var(0, correction=correction)]
    expected = [0.9 * old + 0.1 * new for old, new in zip(before, batch, strict=True)]
    torch.testing.assert_close(statistics(model[0]), expected)


@ALL
def test_the_statistics_may_be_replaced_as_lightning_does(make: Any, correction: int) -> None:
    model = nn.Sequential(make())
    model(BATCHES[0]).sum().backward()
    (layer,) = (module for module in model.modules() if isinstance(module, _BatchNorm))
    layer.running_mean = torch.zeros_like(layer.running_mean)
    layer.running_var = torch.ones_like(layer.running_var)
    layer.momentum = None
    layer.num_batches_tracked *= 0
    for x in BATCHES:
        layer(x)
    torch.testing.assert_close(statistics(layer), averages(correction))


@ALL
@pytest.mark.parametrize("by", ["eval", "track_running_stats"])
def test_frozen_layers_keep_their_statistics(make: Any, correction: int, by: str) -> None:
    model = nn.Sequential(make())
    model(BATCHES[1]).sum().backward()
    before = [each.clone() for each in statistics(model[0])]
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)
            if by == "eval":
                module.eval()
            else:
                module.track_running_stats = False
    model.zero_grad()
    x = BATCHES[0].clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert [parameter.grad for parameter in model.parameters()] == [None, None]
    torch.testing.assert_close(statistics(model[0]), before, rtol=0, atol=0)
    used = before if by == "eval" else [x.mean(0), x.var(0, correction=0)]
    torch.testing.assert_close(y, (x - used[0]) / (used[1] + 1e-5).sqrt())


@ALL
def test_the_converters_leave_them(
    make: Any, correction: int, recwarn: pytest.WarningsRecorder
) -> None:
    model = nn.Sequential(make())
    layer, attributes = model[0], dict(vars(model[0]))
    convert_sync_batchnorm(model)
    revert_sync_batchnorm(model)
    paddle.convert_sync_batchnorm(model)
    assert model[0] is layer
    assert vars(layer) == attributes
    assert not recwarn.list


def test_torch_s_own_converter_is_warned_of_another_momentum() -> None:
    with pytest.warns(UserWarning, match="loses its conventions, those of megengine: convert with"):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(megengine.SyncBatchNorm(3)))
    for make in (lambda: mxnet.SyncBatchNorm(3), lambda: paddle.SyncBatchNorm(3)):
        with pytest.raises(AttributeError, match="num_features"):
            nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(make()))


@ALL
def test_a_pickle_without_a_counter_gets_one(make: Any, correction: int) -> None:
    layer = make()
    del layer.num_batches_tracked  # of a version without it
    layer = pickle.loads(pickle.dumps(layer))
    layer(BATCHES[0]).sum().backward()
    assert layer.num_batches_tracked == 1
    assert len(layer.state_dict()) == 4


@ALL
def test_parameters_and_statistics_are_reset(make: Any, correction: int) -> None:
    layer = make()
    layer(BATCHES[0]).sum().backward()
    with torch.no_grad():
        layer.weight.fill_(3)
        layer.bias.fill_(3)
    layer.reset_parameters()
    expected = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(statistics(layer), [expected, expected + 1])
    torch.testing.assert_close(
        [layer.weight.flatten(), layer.bias.flatten()], [expected + 1, expected]
    )


@ALL
def test_the_counter_is_not_in_the_state_dict(make: Any, correction: int) -> None:
    layer = make()
    layer(BATCHES[0])
    state = layer.state_dict()
    assert len(state) == 4
    before_versions = dict(state)  # without the version that a state dict of torch has
    other = copy.deepcopy(layer)
    other.load_state_dict(before_versions, strict=True)
    assert len(before_versions) == 4
