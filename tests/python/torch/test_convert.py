"""Conversion of whole models and the way back; copies and pickles of layers."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import syncbn
from syncbn.comm import thread_group
from syncbn.torch import (
    BatchNorm,
    SyncBatchNorm,
    convert_sync_batchnorm,
    revert_sync_batchnorm,
)

KINDS = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]


class RenamedBatchNorm(nn.BatchNorm2d):
    """Computes what its base does, and carries something more."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.note = "kept"


class BatchNormAct(nn.BatchNorm2d):
    """Batch normalization with an activation of its own, as image model libraries have it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.SiLU()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


class ScaledSyncBatchNorm(SyncBatchNorm):
    def __init__(self, *args: Any, scale: float = 2.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return self.scale * super().forward(input)


def trained(layer: nn.Module) -> nn.Module:
    """Numbers in parameters and buffers that no constructor makes."""
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.copy_(torch.rand(tensor.shape) + 3)
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"eps": 1e-3, "momentum": None},
        {"affine": False},
        {"bias": False, "dtype": torch.float64},
        {"track_running_stats": False, "momentum": 0.3},
    ],
)
def test_a_layer_goes_there_and_back(kind: type[nn.Module], arguments: dict) -> None:
    old = trained(kind(4, **arguments)).train(bool(arguments))
    old.qconfig = "quantised like this"
    if old.weight is not None:
        old.weight.requires_grad_(False)
    state = copy.deepcopy(old.state_dict())
    parameters = [id(p) for p in old.parameters()]

    new = convert_sync_batchnorm(old, weighting="equal")
    assert type(new) is SyncBatchNorm
    assert new.weighting == "equal"
    back = revert_sync_batchnorm(new)
    assert type(back) is kind
    assert repr(back) == repr(old)
    for layer in [new, back]:
        torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)
        assert [id(p) for p in layer.parameters()] == parameters
        assert (layer.eps, layer.momentum, layer.affine) == (old.eps, old.momentum, old.affine)
        assert (layer.training, layer.qconfig) == (old.training, old.qconfig)
    assert not any(hasattr(back, name) for name in ("process_group", "weighting"))


def test_a_model_computes_the_same_and_keeps_its_structure() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        trained(nn.BatchNorm2d(4)),
        nn.ModuleDict({"norm": trained(nn.BatchNorm2d(4)), "other": nn.InstanceNorm2d(4)}),
    ).double()
    original = copy.deepcopy(model)
    converted = SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model
    assert type(model[1]) is SyncBatchNorm
    assert type(model[2]["norm"]) is SyncBatchNorm
    assert type(model[2]["other"]) is nn.InstanceNorm2d
    assert list(model.state_dict()) == list(original.state_dict())
    for mode in [True, False]:
        x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        head, same_head = model[:2].train(mode), original[:2].train(mode)
        torch.testing.assert_close(head(x), same_head(x))


def test_a_layer_under_two_names_stays_one_layer() -> None:
    shared = nn.BatchNorm1d(4)
    inner = nn.Sequential(shared)
    model = nn.Sequential(shared, nn.ReLU(), shared, inner, inner)
    convert_sync_batchnorm(model)
    assert type(model[0]) is SyncBatchNorm
    assert model[0] is model[2] is model[3][0]
    assert model[3] is model[4]
    revert_sync_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm1d
    assert model[0] is model[2] is model[3][0]


@pytest.mark.parametrize("way", ["convert", "revert"])
def test_hooks_stay_and_can_still_be_removed(way: str) -> None:
    calls: list[str] = []
    layer: nn.Module = nn.BatchNorm1d(4)
    if way == "revert":
        layer = convert_sync_batchnorm(layer)

    def note(name: str) -> Any:
        return lambda *_, **__: calls.append(name)

    def note_module(module: nn.Module, *_: Any) -> None:
        calls.append("load_pre" if module is new else "load_pre of a module that was replaced")

    handles = [
        layer.register_forward_pre_hook(note("forward_pre")),
        layer.register_forward_hook(note("forward"), with_kwargs=True),
        layer.register_full_backward_hook(note("backward")),
        layer.register_state_dict_pre_hook(note("state_dict_pre")),
        layer._register_state_dict_hook(note("state_dict")),
        layer.register_load_state_dict_pre_hook(note_module),
        layer.register_load_state_dict_post_hook(note("load_post")),
    ]
    replace = convert_sync_batchnorm if way == "convert" else revert_sync_batchnorm
    new = replace(layer)
    assert type(new) is not type(layer)
    del layer

    def use() -> list[str]:
        calls.clear()
        new(torch.randn(3, 4, requires_grad=True)).sum().backward()
        new.load_state_dict(new.state_dict())
        return calls

    assert sorted(use()) == [
        "backward",
        "forward",
        "forward_pre",
        "load_post",
        "load_pre",
        "state_dict",
        "state_dict_pre",
    ]
    for handle in handles:
        handle.remove()
    assert use() == []


def test_layers_of_others_are_left_alone_and_named() -> None:
    model = nn.Sequential(BatchNormAct(4), nn.LazyBatchNorm2d(), nn.BatchNorm2d(4))
    kept = list(model)
    with pytest.warns(UserWarning, match="left these") as caught:
        convert_sync_batchnorm(model)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "0 (BatchNormAct) overrides forward" in message
    assert "1 (LazyBatchNorm2d) is lazy" in message
    assert model[0] is kept[0]
    assert model[1] is kept[1]
    assert type(model[2]) is SyncBatchNorm


def test_a_lazy_layer_is_converted_once_it_has_seen_a_batch() -> None:
    model = nn.Sequential(nn.LazyBatchNorm2d())
    model(torch.randn(2, 4, 3, 3))
    assert type(convert_sync_batchnorm(model)[0]) is SyncBatchNorm
    assert type(revert_sync_batchnorm(model)[0]) is nn.BatchNorm2d


def test_a_subclass_without_behaviour_of_its_own_goes_there_and_back() -> None:
    new = convert_sync_batchnorm(RenamedBatchNorm(4))
    assert type(new) is SyncBatchNorm
    assert new.note == "kept"
    back = revert_sync_batchnorm(new)
    assert type(back) is RenamedBatchNorm
    assert back.note == "kept"


def test_the_layer_of_torch_is_taken_over_with_its_group() -> None:
    comm, other = thread_group(2)
    theirs = nn.SyncBatchNorm(4, process_group=comm)
    assert convert_sync_batchnorm(theirs).process_group is comm
    assert convert_sync_batchnorm(theirs, other).process_group is other
    back = revert_sync_batchnorm(convert_sync_batchnorm(theirs))
    assert type(back) is BatchNorm
    assert type(revert_sync_batchnorm(nn.SyncBatchNorm(4))) is BatchNorm
    for shape in [(3, 4), (3, 4, 2), (3, 4, 2, 2), (3, 4, 2, 2, 2)]:
        assert back(torch.randn(shape)).shape == shape
    with pytest.raises(ValueError, match="at least 2D"):
        back(torch.randn(4))


def test_a_reverted_layer_checks_its_input_as_before() -> None:
    back = revert_sync_batchnorm(convert_sync_batchnorm(nn.BatchNorm2d(4)))
    with pytest.raises(ValueError, match="expected 4D input"):
        back(torch.randn(3, 4))


def test_what_is_synchronized_already_is_not_touched() -> None:
    comm = thread_group(2)[0]
    layer = SyncBatchNorm(4, process_group=comm, activation="relu")
    assert convert_sync_batchnorm(layer) is layer
    assert layer.process_group is comm
    assert layer.activation == "relu"


@pytest.mark.parametrize("option", [{"activation": "relu"}, {"eps_mode": "max"}])
def test_what_torch_cannot_compute_is_not_reverted(option: dict) -> None:
    model = nn.Sequential(SyncBatchNorm(4, **option), SyncBatchNorm(4))
    name, value = next(iter(option.items()))
    with pytest.warns(UserWarning, match=rf"0 \(SyncBatchNorm\) has {name}='{value}'"):
        revert_sync_batchnorm(model)
    assert type(model[0]) is SyncBatchNorm
    assert type(model[1]) is BatchNorm


def test_a_subclass_of_the_layer_converts_to_itself_and_is_not_stripped() -> None:
    model = ScaledSyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(4)))
    assert type(model[0]) is ScaledSyncBatchNorm
    assert model[0].scale == 2.0
    with pytest.warns(UserWarning, match="ScaledSyncBatchNorm.* overrides forward"):
        revert_sync_batchnorm(model)
    assert type(model[0]) is ScaledSyncBatchNorm


def test_unknown_options_are_refused_before_anything_is_replaced() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(syncbn.InvalidArgumentError, match="weighting"):
        convert_sync_batchnorm(model, weighting="median")
    assert type(model[0]) is nn.BatchNorm1d


def test_the_converted_layer_stands_apart_from_the_old_one() -> None:
    old = nn.BatchNorm1d(4)
    new = convert_sync_batchnorm(old)
    new.weight = nn.Parameter(torch.zeros(4))
    assert (old.weight == 1).all()


def test_a_deep_copy_talks_in_the_same_group() -> None:
    comm = thread_group(2)[0]
    model = nn.Sequential(convert_sync_batchnorm(nn.BatchNorm1d(4), comm))
    copied = copy.deepcopy(model)
    assert copied[0] is not model[0]
    assert copied[0].process_group is comm
    assert copied[0].weight is not model[0].weight
    torch.testing.assert_close(copied.state_dict(), model.state_dict())


def test_a_pickle_leaves_the_group_behind_and_says_so() -> None:
    comm = thread_group(2)[0]
    layer = trained(SyncBatchNorm(4, eps=1e-3, process_group=comm, activation="relu"))
    with pytest.warns(UserWarning, match="pickled without its process_group"):
        loaded = pickle.loads(pickle.dumps(layer))
    assert loaded.process_group is None
    assert layer.process_group is comm
    assert repr(loaded) == repr(layer)
    torch.testing.assert_close(loaded.state_dict(), layer.state_dict())
    layer.process_group = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pickle.loads(pickle.dumps(layer)).activation == "relu"


def test_a_pickle_from_before_an_option_existed_loads() -> None:
    state = SyncBatchNorm(4).__getstate__()
    del state["weighting"]
    layer = SyncBatchNorm.__new__(SyncBatchNorm)
    layer.__setstate__(state)
    assert layer(torch.randn(3, 4)).shape == (3, 4)
