"""What conversion keeps of a layer besides its tensors, and what it leaves alone with a warning."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from syncnorm.torch import (
    BatchNorm,
    LazySyncBatchNorm,
    SyncBatchNorm,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    convert_sync_batchnorm,
    revert_sync_batchnorm,
)

# As torch.jit says from 2.15 on.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


class ScaledSyncBatchNorm(SyncBatchNorm):
    def __init__(self, *args: Any, scale: float = 2.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scale = scale

    def forward(self, *arguments: Any) -> Tensor:
        return self.scale * super().forward(*arguments)


class WithOwnForward(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Reporting:
    def report(self) -> str:
        return "mean and variance"


class WithMoreMethods(Reporting, nn.BatchNorm2d):
    @property
    def channels(self) -> int:
        return self.num_features


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def with_patched_forward() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    layer.forward = types.MethodType(WithOwnForward.forward, layer)
    return layer


def with_parametrization() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


def with_an_attribute_of_ours() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    layer.freeze = "what its owner means by it"
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: WithOwnForward(4), r"\(WithOwnForward\) defines forward"),
        (lambda: WithMoreMethods(4), r"\(WithMoreMethods\) defines channels, report"),
        (with_patched_forward, r"\(BatchNorm2d\) was given another forward"),
        (with_parametrization, r"\(ParametrizedBatchNorm2d\) has parametrizations"),
        (with_an_attribute_of_ours, r"\(BatchNorm2d\) has attributes freeze of its own"),
    ],
)
def test_layers_with_more_to_them_are_left_alone_and_named(make: Any, reason: str) -> None:
    model = nn.Sequential(nn.ModuleDict({"norm": make()}), nn.BatchNorm2d(4))
    kept = model[0]["norm"]
    kind = type(kept)
    expected = rf"convert_sync_batchnorm left these as they are: 0\.norm {reason}$"
    with pytest.warns(UserWarning, match=expected):
        convert_sync_batchnorm(model)
    assert model[0]["norm"] is kept
    assert type(kept) is kind
    assert type(model[1]) is SyncBatchNorm2d


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_layer_is_left_alone_and_named() -> None:
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.BatchNorm2d(4))), nn.BatchNorm2d(4))
    with pytest.warns(UserWarning, match=r": 0\.0 \(RecursiveScriptModule\) is scripted"):
        convert_sync_batchnorm(model)
    assert type(model[1]) is SyncBatchNorm2d
    assert revert_sync_batchnorm(model) is model


def test_one_warning_names_all() -> None:
    with pytest.warns(UserWarning, match="0 .*; 1 ") as caught:
        convert_sync_batchnorm(nn.Sequential(WithOwnForward(4), WithMoreMethods(4)))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="are: the module itself"):
        convert_sync_batchnorm(WithOwnForward(4))


@pytest.mark.parametrize(
    "layer",
    [nn.InstanceNorm2d(4), nn.LazyInstanceNorm2d(), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)],
    ids=lambda layer: type(layer).__name__,
)
def test_other_layers_are_none_of_our_business(layer: nn.Module) -> None:
    assert convert_sync_batchnorm(layer) is layer
    assert revert_sync_batchnorm(layer) is layer


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"eps_mode": "max"}, "eps_mode='max'"),
        ({"variance_factor": "biased"}, "variance_factor='biased'"),
        ({"freeze": True}, "freeze=True"),
        ({"in_place": True}, "in_place=True"),
    ],
)
@pytest.mark.parametrize("converted", [False, True])
def test_what_torch_cannot_compute_is_not_reverted(
    option: dict, reason: str, converted: bool
) -> None:
    layer = SyncBatchNorm(4, **option)
    if converted:
        layer = convert_sync_batchnorm(nn.BatchNorm1d(4), **option)
    kind = SyncBatchNorm1d if converted else SyncBatchNorm
    model = nn.Sequential(layer, SyncBatchNorm(4))
    with pytest.warns(UserWarning, match=rf"0 \({kind.__name__}\) has {reason}"):
        revert_sync_batchnorm(model)
    assert type(model[0]) is kind
    assert type(model[1]) is BatchNorm


def test_lazy_layers_are_reverted_to_what_they_were_or_would_be() -> None:
    model = convert_sync_batchnorm(nn.Sequential(nn.LazyBatchNorm2d(), nn.LazyBatchNorm2d()))
    model[1](torch.randn(2, 4, 3, 3))
    revert_sync_batchnorm(model)
    assert [type(layer) for layer in model] == [nn.LazyBatchNorm2d, nn.BatchNorm2d]
    model(torch.randn(2, 4, 3, 3))
    assert type(model[0]) is nn.BatchNorm2d
    unknown = LazySyncBatchNorm()
    with pytest.warns(UserWarning, match="the module itself .* is lazy: run one batch through it"):
        assert revert_sync_batchnorm(unknown) is unknown


def test_a_subclass_of_the_layer_converts_to_itself_and_is_not_stripped() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.LazyBatchNorm1d())
    with pytest.warns(UserWarning, match=r"1 \(LazyBatchNorm1d\) is lazy: run one batch"):
        ScaledSyncBatchNorm.convert_sync_batchnorm(model)
    assert type(model[0]) is ScaledSyncBatchNorm
    assert model[0].scale == 2.0
    with pytest.warns(UserWarning, match="ScaledSyncBatchNorm.* defines forward"):
        revert_sync_batchnorm(model)
    assert type(model[0]) is ScaledSyncBatchNorm


@pytest.mark.parametrize("way", ["convert", "revert"])
def test_hooks_stay_and_can_still_be_removed(way: str) -> None:
    calls: list[str] = []
    layer: nn.Module = nn.BatchNorm1d(4)
    if way == "revert":
        layer = convert_sync_batchnorm(layer)

    def note(name: str) -> Any:
        return lambda *_, **__: calls.append(name)

    def note_module(module: nn.Module, *_: Any) -> None:
        calls.append("load_pre" if module is layer else "load_pre of another module")

    handles = [
        layer.register_forward_pre_hook(note("forward_pre")),
        layer.register_forward_pre_hook(note("forward_pre_kwargs"), with_kwargs=True),
        layer.register_forward_hook(note("forward"), with_kwargs=True),
        layer.register_forward_hook(note("forward_always"), always_call=True),
        layer.register_full_backward_pre_hook(note("backward_pre")),
        layer.register_full_backward_hook(note("backward")),
        layer.register_state_dict_pre_hook(note("state_dict_pre")),
        layer._register_state_dict_hook(note("state_dict")),
        layer.register_load_state_dict_pre_hook(note_module),
        layer.register_load_state_dict_post_hook(note("load_post")),
    ]
    before = type(layer)
    change = convert_sync_batchnorm if way == "convert" else revert_sync_batchnorm
    assert change(layer) is layer
    assert type(layer) is not before

    def use() -> list[str]:
        calls.clear()
        layer(torch.randn(3, 4, requires_grad=True)).sum().backward()
        layer.load_state_dict(layer.state_dict())
        return calls

    assert sorted(use()) == [
        "backward",
        "backward_pre",
        "forward",
        "forward_always",
        "forward_pre",
        "forward_pre_kwargs",
        "load_post",
        "load_pre",
        "state_dict",
        "state_dict_pre",
    ]
    for handle in handles:
        handle.remove()
    assert use() == []


def test_a_hook_that_is_always_called_is_called_for_an_error() -> None:
    calls: list[str] = []
    layer = nn.BatchNorm1d(4)
    layer.register_forward_hook(lambda *_: calls.append("always"), always_call=True)
    new = convert_sync_batchnorm(layer)
    with pytest.raises(ValueError, match="expected 4 channels"):
        new(torch.randn(3, 5))
    assert calls == ["always"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weight_norm_and_pruning_stay() -> None:
    for change in (
        lambda layer: nn.utils.weight_norm(layer, "weight", dim=None),
        lambda layer: prune.l1_unstructured(layer, "weight", amount=2),
    ):
        layer = nn.BatchNorm1d(4)
        with torch.no_grad():
            layer.weight.copy_(torch.arange(1.0, 5.0))
        change(layer)
        names = [name for name, _ in layer.named_parameters()]
        x = torch.randn(6, 4)
        expected = layer(x)
        new = convert_sync_batchnorm(layer)
        assert type(new) is SyncBatchNorm1d
        assert [name for name, _ in new.named_parameters()] == names
        torch.testing.assert_close(new(x), expected)
        for parameter in new.parameters():
            parameter.data.mul_(3)
        new(x).square().sum().backward()
        assert all(parameter.grad is not None for parameter in new.parameters())
        back = revert_sync_batchnorm(new)
        torch.testing.assert_close(back(x), new(x))
