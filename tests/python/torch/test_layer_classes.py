"""SyncBatchNorm1d, 2d and 3d take the place of torch's layers in code that looks at the class."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import training_runs as runs
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import update_bn
from worlds import World

from support.scenarios import error_of
from syncnorm.torch import (
    SyncBatchNorm,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    SyncBatchNorm3d,
    convert_sync_batchnorm,
    revert_sync_batchnorm,
)

KINDS = [
    (nn.BatchNorm1d, SyncBatchNorm1d),
    (nn.BatchNorm2d, SyncBatchNorm2d),
    (nn.BatchNorm3d, SyncBatchNorm3d),
]
BOTH = pytest.mark.parametrize(("theirs", "ours"), KINDS)
SHAPES = [(3,), (2, 3), (2, 3, 4), (2, 3, 4, 4), (2, 3, 4, 4, 4), (2, 3, 1, 1, 1, 1)]


@pytest.fixture(scope="module")
def world(worlds) -> World:
    return worlds("scenarios_layer_classes", 2)


def trained(layer: nn.Module) -> nn.Module:
    """Give parameters and buffers values that no constructor gives them."""
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.copy_(torch.rand(tensor.shape) + 1)
    return layer


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5)
    )


# ---------------------------------------------------------------------------------- the classes


@BOTH
def test_a_program_may_set_torchs_name_to_our_class(monkeypatch, theirs, ours) -> None:
    monkeypatch.setattr(nn, theirs.__name__, ours)
    x = torch.randn(2, 3, *[4] * int(theirs.__name__[-2]))
    torch.testing.assert_close(getattr(nn, theirs.__name__)(3)(x), theirs(3)(x))
    with pytest.raises(ValueError, match="expected"):
        ours(3)(torch.randn(2, 3, 1, 1, 1, 1))


@BOTH
def test_they_are_torchs_classes_too(theirs: type, ours: type) -> None:
    layer = ours(3)
    assert isinstance(layer, theirs)
    assert isinstance(layer, SyncBatchNorm)
    others = [other for other, _ in KINDS if other is not theirs]
    assert not isinstance(layer, tuple(others))
    assert not isinstance(layer, nn.SyncBatchNorm)  # which DDP refuses on the CPU


@BOTH
def test_they_refuse_the_dimensions_that_torchs_refuse(theirs: type, ours: type) -> None:
    for shape in SHAPES:
        x = torch.randn(shape)
        errors = [error_of(lambda kind=kind, x=x: kind(3)(x)) for kind in (theirs, ours)]
        if errors[0] == "no error":
            torch.testing.assert_close(ours(3)(x), theirs(3)(x))
        else:
            dimensions = errors[0].removeprefix("ValueError: ") if len(shape) > 1 else "expected at"
            assert errors[1].startswith(f"InvalidArgumentError: {dimensions}")


@BOTH
def test_a_list_is_checked_tensor_by_tensor(theirs: type, ours: type) -> None:
    fitting = {
        nn.BatchNorm1d: (2, 3),
        nn.BatchNorm2d: (2, 3, 4, 4),
        nn.BatchNorm3d: (2, 3, 1, 1, 1),
    }
    x = torch.randn(fitting[theirs])
    assert [y.shape for y in ours(3)([x, x])] == [x.shape] * 2
    with pytest.raises(ValueError, match="D input"):
        ours(3)([x, torch.randn(2, 3, 1, 1, 1, 1)])


@BOTH
def test_state_dicts_are_those_of_torch(theirs: type, ours: type) -> None:
    old, new = trained(theirs(3)), ours(3)
    assert list(new.state_dict()) == list(old.state_dict())
    new.load_state_dict(old.state_dict(), strict=True)
    again = theirs(3)
    again.load_state_dict(new.state_dict(), strict=True)
    torch.testing.assert_close(again.state_dict(), old.state_dict(), rtol=0, atol=0)


def by_pickle(layer: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(layer))


@BOTH
@pytest.mark.parametrize("copied", [by_pickle, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("converted", [True, False])
def test_copies(
    theirs: type, ours: type, copied: Callable[[nn.Module], nn.Module], converted: bool
) -> None:
    layer = convert_sync_batchnorm(theirs(3), eps_mode="add") if converted else ours(3)
    layer.weighting = "equal"
    new = copied(trained(layer))
    assert type(new) is ours
    assert new.weighting == "equal"
    torch.testing.assert_close(new.state_dict(), layer.state_dict(), rtol=0, atol=0)
    assert type(revert_sync_batchnorm(new)) is theirs
    assert type(layer) is ours


def test_ddp_trains_a_converted_model(world: World) -> None:
    model = runs.convolutional_network(torch.float64)
    runs.train(model, runs.batches((3, 9, 9), sum(runs.UNEQUAL[2]), torch.float64))
    for kinds, state in world["ddp_of_a_converted_model"]:
        assert "SyncBatchNorm2d" in kinds
        torch.testing.assert_close(state, model.state_dict(), rtol=1e-10, atol=1e-10)


# --------------------------------------------------------------------- code that looks at classes

# As fvcore's precise_bn, detectron2's get_default_optimizer_params and timm's freeze_batch_norm_2d
# list them.
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def parameter_groups(model: nn.Module, norms: tuple[type, ...]) -> list[list[str]]:
    """Return the names of the parameters that decay, those of norms, and the biases."""
    groups: list[list[str]] = [[], [], []]
    for path, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            index = 2 if name == "bias" else 1 if isinstance(module, norms) else 0
            groups[index].append(f"{path}.{name}")
    return groups


# Every class of torch.nn with Norm in its name, as Ultralytics' build_optimizer collects them.
BY_NAME = tuple(kind for name, kind in vars(nn).items() if "Norm" in name)


@pytest.mark.parametrize("norms", [NORMS, BY_NAME], ids=["listed", "by_name"])
def test_a_weight_decay_filter_finds_them(norms: tuple[type, ...]) -> None:
    expected = parameter_groups(network(), norms)
    assert expected[1] == ["1.weight", "4.weight"]
    assert parameter_groups(convert_sync_batchnorm(network()), norms) == expected


def test_a_freezer_finds_them() -> None:
    model = convert_sync_batchnorm(network()).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)
    model(torch.randn(3, 3, 2, 2)).sum().backward()
    assert [model[1].num_batches_tracked.item(), model[4].num_batches_tracked.item()] == [0, 1]
    assert model[1].weight.grad is None
    assert not model[1].running_mean.any()
    assert model[4].weight.grad is not None


def test_update_bn_finds_them() -> None:
    plain, converted = network(), network()
    converted.load_state_dict(plain.state_dict())
    convert_sync_batchnorm(converted)
    loader = [torch.randn(4, 3, 2, 2) + 5 for _ in range(3)]
    for model in (plain, converted):
        model(torch.randn(4, 3, 2, 2))  # which the update forgets
        update_bn(loader, model)
    assert converted[1].num_batches_tracked.item() == 3
    assert converted[1].momentum == 0.1
    torch.testing.assert_close(converted.state_dict(), plain.state_dict())


def test_convolutions_are_fused_with_them() -> None:
    model = trained(network()).eval()
    x = torch.randn(2, 3, 2, 2)
    expected = model[1](model[0](x))
    convert_sync_batchnorm(model)
    pairs = [
        (first, second)
        for first, second in itertools.pairwise(model)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)
    ]
    ((conv, norm),) = pairs
    torch.testing.assert_close(fuse_conv_bn_eval(conv, norm)(x), expected)


def test_quantization_looks_at_the_exact_class_which_comes_back() -> None:
    model = trained(network()).eval()
    x = torch.randn(2, 3, 2, 2)
    expected = model(x)
    convert_sync_batchnorm(model)
    with pytest.raises((NotImplementedError, AssertionError), match="fuse"):
        fuse_modules(model, ["0", "1"])
    revert_sync_batchnorm(model)
    assert type(model[1]) is nn.BatchNorm2d
    fused = fuse_modules(model, ["0", "1"])
    assert type(fused[1]) is nn.Identity
    torch.testing.assert_close(fused(x), expected)


# ------------------------------------------------------------------------------------- identity


class Notebook(nn.Module):
    """A model that keeps its layer in other places, too, and whose methods are hooks of it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.again = self.norm
        self.listed = [self.norm]  # not a submodule
        self.calls: list[tuple[str, nn.Module]] = []
        self.norm.register_forward_hook(self.after)
        self.norm.register_forward_pre_hook(self.before)
        self.norm._register_load_state_dict_pre_hook(self.load, with_module=True)

    def before(self, module: nn.Module, _: Any) -> None:
        self.calls.append(("before", module))

    def after(self, module: nn.Module, *_: Any) -> None:
        self.calls.append(("after", module))

    def load(self, module: nn.Module, *_: Any) -> None:
        self.calls.append(("load", module))

    def forward(self, x: Tensor) -> Tensor:
        return self.listed[0](x)


@pytest.mark.parametrize("change", [convert_sync_batchnorm, revert_sync_batchnorm])
def test_a_layer_stays_the_same_object(change: Callable[[nn.Module], nn.Module]) -> None:
    model = Notebook()
    if change is revert_sync_batchnorm:
        convert_sync_batchnorm(model)
    outside, before = model.norm, type(model.norm)
    optimizer = torch.optim.SGD(outside.parameters(), lr=0.1)
    tensors = [*outside.parameters(), *outside.buffers()]
    assert change(model) is model
    assert type(outside) is not before
    assert model.norm is model.again is model.listed[0] is outside
    after = [*outside.parameters(), *outside.buffers()]
    assert [id(tensor) for tensor in after] == [id(tensor) for tensor in tensors]

    model(torch.randn(4, 3)).square().sum().backward()
    model.load_state_dict(model.state_dict())
    # Loaded under both names.
    assert [name for name, _ in model.calls] == ["before", "after", "load", "load"]
    assert all(module is outside for _, module in model.calls)
    optimizer.step()
    assert outside.num_batches_tracked.item() == 1


@BOTH
def test_a_layer_by_itself_stays_the_same_object(theirs: type, ours: type) -> None:
    layer = theirs(3)
    assert convert_sync_batchnorm(layer) is layer
    assert type(layer) is ours
    assert convert_sync_batchnorm(layer) is layer
    assert revert_sync_batchnorm(layer) is layer
    assert type(layer) is theirs


class Marked(nn.BatchNorm2d):
    """A subclass that computes what its base does."""

    mark = "kept"


def test_the_exact_class_comes_back() -> None:
    model = nn.Sequential(Marked(3), nn.BatchNorm2d(3), SyncBatchNorm2d(3), SyncBatchNorm1d(3))
    convert_sync_batchnorm(model)
    assert [type(layer) for layer in model] == [SyncBatchNorm2d] * 3 + [SyncBatchNorm1d]
    revert_sync_batchnorm(model)
    expected = [Marked, nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm1d]
    assert [type(layer) for layer in model] == expected


@pytest.mark.parametrize("compiled", ["layer", "model"])
def test_a_compiled_call_is_not_used_after_conversion(compiled: str) -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.BatchNorm1d(3))
    (model if compiled == "model" else model[0]).compile(backend="eager")
    x = torch.randn(6, 3)
    assert (model(x) < 0).any()
    convert_sync_batchnorm(model, activation="relu")
    assert model[0]._compiled_call_impl is None
    torch.testing.assert_close(model(x), nn.BatchNorm1d(3)(x).relu())

    (model if compiled == "model" else model[0]).compile(backend="eager")
    model(x)
    model[0].activation = "identity"
    revert_sync_batchnorm(model)
    assert model[0]._compiled_call_impl is None
    assert type(model[0]) is nn.BatchNorm1d
    torch.testing.assert_close(model(x), nn.BatchNorm1d(3)(x))
