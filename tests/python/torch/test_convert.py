"""Conversion of whole models and the way back."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import syncnorm
from syncnorm.comm import thread_group
from syncnorm.torch import (
    BatchNorm,
    LazySyncBatchNorm,
    SyncBatchNorm,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    SyncBatchNorm3d,
    SyncBatchNormAct,
    convert_sync_batchnorm,
    megengine,
    paddle,
    revert_sync_batchnorm,
)
from syncnorm.torch.layer import OPTIONS

KINDS = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    nn.BatchNorm3d: SyncBatchNorm3d,
}


class RenamedBatchNorm(nn.BatchNorm2d):
    """Computes what its base does, and carries something more."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.note = "kept"


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
    layer = trained(kind(4, **arguments)).train(bool(arguments))
    layer.qconfig = "quantised like this"
    if layer.weight is not None:
        layer.weight.requires_grad_(False)
    old = copy.deepcopy(layer)
    state = old.state_dict()
    tensors = [id(tensor) for tensor in [*layer.parameters(), *layer.buffers()]]

    def assert_kept() -> None:
        torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)
        assert [id(tensor) for tensor in [*layer.parameters(), *layer.buffers()]] == tensors
        assert (layer.eps, layer.momentum, layer.affine) == (old.eps, old.momentum, old.affine)
        assert (layer.training, layer.qconfig) == (old.training, old.qconfig)

    assert convert_sync_batchnorm(layer, weighting="equal") is layer
    assert type(layer) is KINDS[kind]
    assert layer.weighting == "equal"
    assert_kept()
    assert revert_sync_batchnorm(layer) is layer
    assert type(layer) is kind
    assert repr(layer) == repr(old)
    assert_kept()
    assert vars(layer).keys() == vars(old).keys()
    assert not any(hasattr(layer, name) for name in ("process_group", "weighting"))


def test_a_model_computes_the_same_and_keeps_its_structure() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        trained(nn.BatchNorm2d(4)),
        nn.ModuleDict({"norm": trained(nn.BatchNorm2d(4)), "other": nn.InstanceNorm2d(4)}),
    ).double()
    original = copy.deepcopy(model)
    converted = SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model
    assert type(model[1]) is SyncBatchNorm2d
    assert type(model[2]["norm"]) is SyncBatchNorm2d
    assert type(model[2]["other"]) is nn.InstanceNorm2d
    assert list(model.state_dict()) == list(original.state_dict())
    for mode in [True, False]:
        x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        head, same_head = model[:2].train(mode), original[:2].train(mode)
        torch.testing.assert_close(head(x), same_head(x))


def test_a_converted_layer_is_fused_with_the_convolution_before_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), trained(nn.BatchNorm2d(4))).eval()
    x = torch.randn(2, 3, 5, 5)
    expected = model(x)
    convert_sync_batchnorm(model)
    fused = fuse_conv_bn_eval(model[0], model[1])
    torch.testing.assert_close(fused(x), expected)
    assert convert_sync_batchnorm(fused) is fused


def test_a_layer_under_two_names_stays_one_layer() -> None:
    shared = nn.BatchNorm1d(4)
    inner = nn.Sequential(shared)
    model = nn.Sequential(shared, nn.ReLU(), shared, inner, inner)
    convert_sync_batchnorm(model)
    assert type(model[0]) is SyncBatchNorm1d
    assert model[0] is model[2] is model[3][0]
    assert model[3] is model[4]
    revert_sync_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm1d
    assert model[0] is model[2] is model[3][0]


def test_a_lazy_layer_is_converted_once_it_has_seen_a_batch() -> None:
    model = nn.Sequential(nn.LazyBatchNorm2d())
    model(torch.randn(2, 4, 3, 3))
    assert type(convert_sync_batchnorm(model)[0]) is SyncBatchNorm2d
    assert type(revert_sync_batchnorm(model)[0]) is nn.BatchNorm2d


def test_a_subclass_without_behaviour_of_its_own_goes_there_and_back() -> None:
    new = convert_sync_batchnorm(RenamedBatchNorm(4))
    assert type(new) is SyncBatchNorm2d
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


def test_unknown_options_are_refused_before_anything_is_replaced() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(syncnorm.InvalidArgumentError, match="weighting"):
        convert_sync_batchnorm(model, weighting="median")
    assert type(model[0]) is nn.BatchNorm1d


def test_a_copy_made_before_conversion_stays_what_it_was() -> None:
    layer = nn.BatchNorm1d(4)
    before = copy.copy(layer), copy.deepcopy(layer)
    convert_sync_batchnorm(layer)
    layer.weighting = "equal"
    assert [type(each) for each in before] == [nn.BatchNorm1d] * 2
    assert not any(hasattr(each, "weighting") for each in before)


def test_a_converted_layer_knows_its_path() -> None:
    shared = nn.BatchNorm1d(4)
    model = nn.Sequential(shared, nn.ModuleDict({"norm": nn.BatchNorm1d(4), "again": shared}))
    convert_sync_batchnorm(model, timeout=7.5)
    assert [model[0].layer_name, model[1]["norm"].layer_name] == ["0", "1.norm"]
    assert model[0].timeout == 7.5
    assert copy.deepcopy(model)[1]["norm"].layer_name == "1.norm"
    assert pickle.loads(pickle.dumps(model))[1]["norm"].layer_name == "1.norm"
    assert convert_sync_batchnorm(nn.BatchNorm1d(4)).layer_name is None
    revert_sync_batchnorm(model)
    assert not hasattr(model[0], "layer_name")


def test_a_second_conversion_applies_what_is_given_and_keeps_the_rest() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.ModuleList([nn.BatchNorm2d(4)]))
    first, second = thread_group(2)
    convert_sync_batchnorm(model, first, weighting="equal", timeout=3.0)
    once = list(model.modules())
    convert_sync_batchnorm(model)
    assert (model[0].weighting, model[0].eps_mode, model[0].timeout) == ("equal", "add", 3.0)
    assert model[0].process_group is first
    convert_sync_batchnorm(model, second, eps_mode="max", timeout=None)
    assert list(model.modules()) == once
    for layer in (model[0], model[1][0]):
        assert (layer.weighting, layer.eps_mode, layer.timeout) == ("equal", "max", None)
        assert layer.process_group is second
    assert [model[0].layer_name, model[1][0].layer_name] == ["0", "1.0"]


@pytest.mark.parametrize(
    ("name", "value"),
    {
        "weighting": "equal",
        "eps_mode": "max",
        "variance_factor": "biased",
        "grad_reduction": "sum",
        "centering": "on",
        "activation": "elu",
        "negative_slope": 0.5,
        "in_place": True,
        "freeze": True,
        "timeout": 4.0,
    }.items(),
)
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm, nn.LazyBatchNorm1d])
def test_a_second_conversion_applies_any_option(
    kind: type[nn.Module], name: str, value: object
) -> None:
    model = nn.Sequential(kind() if kind is nn.LazyBatchNorm1d else kind(4))
    convert_sync_batchnorm(convert_sync_batchnorm(model), **{name: value})
    assert {**OPTIONS, name: value} == {each: getattr(model[0], each) for each in OPTIONS}


def test_a_second_conversion_applies_the_class() -> None:
    class Mine(SyncBatchNorm):
        pass

    model = nn.Sequential(nn.BatchNorm1d(4), SyncBatchNormAct(4, act=nn.Tanh()), Mine(4))
    convert_sync_batchnorm(model, weighting="equal", timeout=3.0)
    trained(model[0])
    state, weight = copy.deepcopy(model[0].state_dict()), model[0].weight
    with pytest.warns(UserWarning, match=r"1 \(SyncBatchNormAct\) is not made a Mine$"):
        Mine.convert_sync_batchnorm(model, eps_mode="max")
    assert [type(layer) for layer in model] == [Mine, SyncBatchNormAct, Mine]
    assert model[0].weight is weight
    torch.testing.assert_close(model[0].state_dict(), state, rtol=0, atol=0)
    assert (model[0].weighting, model[0].eps_mode, model[0].timeout) == ("equal", "max", 3.0)
    assert model[0].layer_name == "0"
    convert_sync_batchnorm(model, eps_mode="add")  # without a class it is kept
    assert type(model[0]) is Mine
    assert type(revert_sync_batchnorm(model)[0]) is nn.BatchNorm1d


def test_a_second_conversion_of_another_system_s_layer() -> None:
    model = nn.Sequential(paddle.SyncBatchNorm(4), megengine.SyncBatchNorm(4))
    group = thread_group(1)[0]
    convert_sync_batchnorm(model, group, timeout=3.0)
    for layer in model:
        assert (layer.process_group, layer.timeout) == (group, 3.0)
    with pytest.warns(UserWarning, match=r"0 \(SyncBatchNorm\) has no option eps_mode"):
        convert_sync_batchnorm(model, eps_mode="max")
    assert not hasattr(model[0], "eps_mode")


class HoldsLayers(nn.Module):
    """Keeps layers where torch does not find them, and elsewhere."""

    def __init__(self, kept: object, registered: nn.Module) -> None:
        super().__init__()
        self.kept = kept
        self.registered = registered


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ([nn.BatchNorm1d(4)], "body.kept (list) holds 1 batch normalization"),
        (
            (nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4)),),
            "body.kept (tuple) holds 2 batch normalizations",
        ),
        (
            {"a": [nn.BatchNorm1d(4)], "b": {nn.BatchNorm1d(4)}},
            "body.kept (dict) holds 2 batch normalizations",
        ),
    ],
)
def test_layers_in_plain_containers_are_named(kept: object, found: str) -> None:
    model = nn.ModuleDict({"body": HoldsLayers(kept, nn.BatchNorm2d(4))})
    with pytest.warns(UserWarning, match="left these as they are") as caught:
        convert_sync_batchnorm(model)
    assert len(caught) == 1
    assert str(caught[0].message) == (
        f"convert_sync_batchnorm left these as they are: {found} outside of the"
        " submodules: use nn.ModuleList or nn.ModuleDict"
    )
    assert caught[0].filename == __file__
    assert type(model["body"].registered) is SyncBatchNorm2d


def test_what_is_registered_or_converted_is_not_named_for_a_container() -> None:
    layer = nn.BatchNorm1d(4)
    itself: list[object] = [layer, 3, "text", nn.Linear(2, 2), SyncBatchNorm(4)]
    itself.append(itself)
    model = HoldsLayers(itself, nn.Sequential(layer))
    convert_sync_batchnorm(model)
    assert type(layer) is SyncBatchNorm1d


def test_torch_s_converter_warns_of_options_that_it_loses() -> None:
    """The warning comes from a global hook of torch, which the first layer with options sets."""
    model = nn.Sequential(SyncBatchNorm2d(4, activation="elu", eps_mode="max"), SyncBatchNorm(4))
    with pytest.warns(UserWarning, match="replaces") as caught:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert len(caught) == 1
    assert str(caught[0].message) == (
        "torch.nn.SyncBatchNorm replaces a SyncBatchNorm2d of syncnorm and loses its"
        " eps_mode='max', activation='elu': convert with syncnorm.torch.convert_sync_batchnorm, or"
        " call syncnorm.torch.install() before torch's converter"
    )
    assert [type(layer) for layer in model] == [nn.SyncBatchNorm] * 2


def test_an_unknown_option_of_a_second_conversion_changes_nothing() -> None:
    layer = SyncBatchNorm(4, weighting="equal")
    with pytest.raises(syncnorm.InvalidArgumentError, match="eps_mode"):
        convert_sync_batchnorm(layer, weighting="batch", eps_mode="plus")
    assert (layer.weighting, layer.eps_mode) == ("equal", "add")


def test_a_layer_is_converted_again_after_it_was_used_and_reverted() -> None:
    layer = nn.BatchNorm1d(4)
    attributes = vars(layer).keys() | set()
    x = torch.randn(5, 4)
    convert_sync_batchnorm(layer, eps_mode="add")(x)
    revert_sync_batchnorm(layer)
    assert vars(layer).keys() == attributes
    layer.eps, layer.momentum = 0.5, None
    convert_sync_batchnorm(layer, eps_mode="max")
    layer.reset_running_stats()
    again = SyncBatchNorm(4, eps=0.5, momentum=None, eps_mode="max")
    torch.testing.assert_close(layer(x), again(x))
    torch.testing.assert_close(layer.state_dict(), again.state_dict())


def test_reverting_twice_changes_nothing_more() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.ModuleList([nn.BatchNorm2d(4)]))
    convert_sync_batchnorm(model)
    revert_sync_batchnorm(model)
    kinds = [type(module) for module in revert_sync_batchnorm(model).modules()]
    assert kinds == [nn.Sequential, nn.BatchNorm1d, nn.ModuleList, nn.BatchNorm2d]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_default_device_makes_no_difference(device: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4, device="cpu"), nn.LazyBatchNorm1d(device="cpu"))
    with torch.device(device):
        convert_sync_batchnorm(model)
        model[1](torch.randn(2, 4, device="cpu"))
        revert_sync_batchnorm(model)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


def test_a_model_without_memory_is_converted() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm2d(4), nn.LazyBatchNorm2d())
    convert_sync_batchnorm(model)
    assert model[0].weight.is_meta
    model[0].to_empty(device="cpu").reset_parameters()
    assert model[0](torch.randn(2, 4, 3, 3)).shape == (2, 4, 3, 3)


def test_dtype_and_requires_grad_of_each_tensor_stay() -> None:
    old = nn.BatchNorm1d(4, dtype=torch.bfloat16)
    old.running_var = old.running_var.float()
    old.bias.requires_grad_(False)
    new = convert_sync_batchnorm(old)
    assert (new.weight.dtype, new.running_var.dtype) == (torch.bfloat16, torch.float32)
    assert (new.weight.requires_grad, new.bias.requires_grad) == (True, False)


def test_the_optimizer_of_before_still_trains_the_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convert_sync_batchnorm(model)
    (model(torch.randn(5, 3)) * torch.arange(4)).sum().backward()
    optimizer.step()
    assert not (model[1].bias == 0).all()


def test_a_deep_copy_talks_in_the_same_group() -> None:
    comm = thread_group(2)[0]
    model = nn.Sequential(convert_sync_batchnorm(nn.BatchNorm1d(4), comm))
    copied = copy.deepcopy(model)
    assert copied[0] is not model[0]
    assert copied[0].process_group is comm
    assert copied[0].weight is not model[0].weight
    torch.testing.assert_close(copied.state_dict(), model.state_dict())


def test_a_pickle_from_before_an_option_existed_loads() -> None:
    state = SyncBatchNorm(4).__getstate__()
    del state["weighting"]
    layer = SyncBatchNorm.__new__(SyncBatchNorm)
    layer.__setstate__(state)
    assert layer(torch.randn(3, 4)).shape == (3, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weighting": "median"}, syncnorm.InvalidArgumentError, "weighting"),
        ({"timeout": -1.0}, syncnorm.InvalidArgumentError, "timeout"),
        ({"layer": nn.BatchNorm1d}, syncnorm.InvalidArgumentError, "expected a subclass of Sync"),
        ({"layer": "norm"}, syncnorm.InvalidArgumentError, "expected a subclass of Sync"),
        ({"layer": LazySyncBatchNorm}, syncnorm.InvalidArgumentError, "that is not lazy"),
        ({"momentum": 0.5}, TypeError, "unexpected keyword argument 'momentum'"),
        ({"name": "norm"}, TypeError, "unexpected keyword argument 'name'"),
    ],
)
def test_wrong_options_are_refused_before_any_layer_is_converted(
    arguments: dict, error: type[Exception], message: str
) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    for module in (model, nn.Linear(3, 3)):
        with pytest.raises(error, match=message):
            convert_sync_batchnorm(module, **arguments)
    assert type(model[0]) is nn.BatchNorm1d


def test_the_class_method_of_a_dimension_converts_every_dimension() -> None:
    model = SyncBatchNorm2d.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(4)))
    assert model(torch.randn(3, 4)).shape == (3, 4)
