"""The registry of kinds, and the layers of other libraries that are in it from the start."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from stand_ins import (
    ActivatedBatchNorm,
    ApexChannelsLast,
    ApexSyncBatchNorm,
    ApexSyncBatchNormInPython,
    InPlaceActivatedBatchNorm,
)
from torch import Tensor, nn

from syncnorm.comm import thread_group
from syncnorm.torch import (
    BatchNorm,
    BatchNormAct,
    NotConvertible,
    SyncBatchNorm,
    convert_sync_batchnorm,
    register_conversion,
    revert_sync_batchnorm,
)
from syncnorm.torch.conversion.registry import _rules


class ScaledBatchNorm(nn.BatchNorm1d):
    """Computes something of its own."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__(channels)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        return self.scale * super().forward(input)


class ScaledSyncBatchNorm(SyncBatchNorm):
    scale: float

    def forward(self, *arguments: Any) -> Tensor:
        return self.scale * super().forward(*arguments)


class RescaledBatchNorm(ScaledBatchNorm):
    """Changes what the kind below it does."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class DocumentedBatchNorm(ScaledBatchNorm):
    """Changes nothing."""


@pytest.fixture
def registry() -> Iterator[dict]:
    before = dict(_rules)
    yield _rules
    _rules.clear()
    _rules.update(before)


def to_scaled(old: ScaledBatchNorm, **choices: Any) -> SyncBatchNorm:
    if old.scale == 0:
        raise NotConvertible("has scale=0")
    return ScaledSyncBatchNorm(old.num_features, device="meta", **choices)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_registered_kind_goes_there_and_back(registry: dict, by_name: bool) -> None:
    name = f"{__name__}.ScaledBatchNorm"
    register_conversion(name if by_name else ScaledBatchNorm, to_scaled)
    comm = thread_group(2)[0]
    layer = ScaledBatchNorm(4, 3.0).eval()
    model = nn.Sequential(layer)
    x = torch.randn(3, 4)
    expected = layer(x)
    convert_sync_batchnorm(model, comm, weighting="equal", timeout=5.0)
    assert type(model[0]) is ScaledSyncBatchNorm
    assert model[0].weight is layer.weight
    assert model[0].process_group is comm
    assert (model[0].weighting, model[0].timeout, model[0].layer_name) == ("equal", 5.0, "0")
    torch.testing.assert_close(model(x), expected)
    revert_sync_batchnorm(model)
    assert type(model[0]) is ScaledBatchNorm
    torch.testing.assert_close(model(x), expected)
    assert vars(model[0]).keys() == vars(layer).keys()


def test_the_way_back_can_be_given(registry: dict) -> None:
    def back(layer: SyncBatchNorm, kind: type[nn.Module]) -> nn.Module:
        assert kind is ScaledBatchNorm
        if layer.eps_mode == "max":
            raise NotConvertible("cannot go back")
        return kind.__new__(kind)

    register_conversion(ScaledBatchNorm, to_scaled, back)
    model = convert_sync_batchnorm(nn.Sequential(*(ScaledBatchNorm(4, 2.0) for _ in range(2))))
    model[1].eps_mode = "max"
    with pytest.warns(UserWarning, match=r"left these.*: 1 \(ScaledSyncBatchNorm\) cannot go back"):
        revert_sync_batchnorm(model)
    assert [type(layer) for layer in model] == [ScaledBatchNorm, ScaledSyncBatchNorm]


def test_a_registration_holds_for_subclasses_that_change_nothing(registry: dict) -> None:
    register_conversion(ScaledBatchNorm, to_scaled)
    kinds = [ScaledBatchNorm, DocumentedBatchNorm, RescaledBatchNorm, ScaledBatchNorm]
    model = nn.Sequential(*(kind(4, 2.0) for kind in kinds))
    model[3].scale = 0
    expected = r": 2 \(RescaledBatchNorm\) defines forward; 3 \(ScaledBatchNorm\) has scale=0$"
    with pytest.warns(UserWarning, match=expected):
        convert_sync_batchnorm(model)
    found = [ScaledSyncBatchNorm, ScaledSyncBatchNorm, RescaledBatchNorm, ScaledBatchNorm]
    assert [type(layer) for layer in model] == found
    revert_sync_batchnorm(model)
    assert [type(layer) for layer in model] == kinds


def test_a_registration_takes_the_place_of_the_one_before(registry: dict) -> None:
    register_conversion(ScaledBatchNorm, to_scaled)
    register_conversion(ScaledBatchNorm, lambda old, **_: SyncBatchNorm(old.num_features))
    assert type(convert_sync_batchnorm(ScaledBatchNorm(4, 2.0))) is SyncBatchNorm


@pytest.mark.parametrize("kind", [ApexSyncBatchNorm, ApexSyncBatchNormInPython])
def test_apexs_layer_is_taken_over(kind: type[nn.Module]) -> None:
    comm = thread_group(2)[0]
    theirs = kind(4, process_group=comm)
    layer = convert_sync_batchnorm(theirs)
    assert type(layer) is SyncBatchNorm
    assert layer.process_group is comm
    assert layer.weight is theirs.weight
    assert layer.activation == "identity"
    assert type(revert_sync_batchnorm(layer)) is BatchNorm


def test_apexs_fused_relu_is_kept() -> None:
    layer = convert_sync_batchnorm(ApexSyncBatchNorm(4, fuse_relu=True))
    assert layer.activation == "relu"
    back = revert_sync_batchnorm(layer)
    assert type(back) is BatchNormAct
    assert type(back.act) is nn.ReLU


@pytest.mark.parametrize(
    "theirs", [ApexSyncBatchNorm(4, channel_last=True), ApexChannelsLast(4)], ids=["nhwc", "group"]
)
def test_layers_with_another_channel_dimension_are_left_alone(theirs: nn.Module) -> None:
    with pytest.warns(UserWarning, match="takes its channels in the last dimension"):
        assert convert_sync_batchnorm(theirs) is theirs


@pytest.mark.parametrize(
    ("activation", "parameter"),
    [("identity", 0.01), ("relu", 0.01), ("leaky_relu", 0.3), ("elu", 1.0)],
)
def test_activated_batch_norm_goes_there_and_back(activation: str, parameter: float) -> None:
    theirs = ActivatedBatchNorm(4, activation, parameter).double()
    nn.init.normal_(theirs.weight)
    original = copy.deepcopy(theirs)
    layer = convert_sync_batchnorm(theirs)
    assert type(layer) is SyncBatchNorm
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(x), original(x))
    back = revert_sync_batchnorm(layer)
    assert type(back) is ActivatedBatchNorm
    assert (back.activation, back.activation_param) == (activation, parameter)
    torch.testing.assert_close(back.eval()(x), original.eval()(x))


def test_what_in_place_abn_computes_otherwise_is_left_alone() -> None:
    model = nn.Sequential(
        InPlaceActivatedBatchNorm(4, "leaky_relu"), ActivatedBatchNorm(4, "elu", 0.5)
    )
    kept = list(model)
    expected = r"0 \(InPlaceABN\) multiplies by \|weight\|.*; 1 \(ABN\) has an elu with alpha=0.5"
    with pytest.warns(UserWarning, match=expected):
        convert_sync_batchnorm(model)
    assert list(model) == kept
