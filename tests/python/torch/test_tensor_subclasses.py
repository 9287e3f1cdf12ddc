"""Tensors of classes that others derive from torch.Tensor, such as MONAI's MetaTensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.data.meta_obj import set_track_meta
from thread_ranks import run_ranks
from torch import Tensor, nn

from syncnorm import Communicator
from syncnorm.torch import SyncBatchNorm, dispatch, sync_batch_norm


class Plain(Tensor):
    """Adds nothing."""


class OwnMethods(Tensor):
    """Has its own method where torch has one, with another signature."""

    def new_empty(self, size: Any, dtype: Any = None, device: Any = None) -> Tensor:
        return super().new_empty(size=size, dtype=dtype, device=device)

    def contiguous(self) -> Tensor:
        raise AssertionError("called by syncnorm")


class Labelled(Tensor):
    """Carries an attribute from operation to operation, as MetaTensor does."""

    label: str = ""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_function__(function, types, args, kwargs or {})
        labels = [each.label for each in args if isinstance(each, Labelled)]
        if isinstance(result, Labelled) and labels:
            result.label = labels[0]
        return result


class Opaque(Tensor):
    """Turns __torch_function__ off: torch returns plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl


KINDS = [Plain, OwnMethods, Labelled, MetaTensor]
WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "train": lambda layer: layer.train(),
    "eval": lambda layer: layer.eval(),
    "freeze": lambda layer: setattr(layer, "freeze", True),
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def values() -> Tensor:
    return torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(4))


def layer_in(way: str, **options: Any) -> SyncBatchNorm:
    layer = SyncBatchNorm(3, **options)
    WAYS[way](layer)
    return layer


@EVERY_KIND
@EVERY_WAY
def test_the_class_and_the_numbers_are_kept(kind: type, way: str) -> None:
    results = []
    for wrapped in (True, False):
        layer = layer_in(way)
        leaf = values().requires_grad_()
        y = layer(leaf.as_subclass(kind) if wrapped else leaf)
        assert type(y) is (kind if wrapped else Tensor)
        y.square().sum().backward()
        results.append(
            [y.detach().as_subclass(Tensor), leaf.grad, layer.weight.grad, layer.running_mean]
        )
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@EVERY_KIND
@EVERY_WAY
@pytest.mark.parametrize("no_grad", [torch.no_grad, torch.inference_mode])
def test_without_gradients(kind: type, way: str, no_grad: Any) -> None:
    with no_grad():
        y = layer_in(way)(values().as_subclass(kind))
        expected = layer_in(way)(values())
    assert type(y) is kind
    assert not y.requires_grad
    torch.testing.assert_close(y.as_subclass(Tensor), expected, rtol=0, atol=0)


@EVERY_KIND
@EVERY_WAY
def test_an_in_place_operation_follows(kind: type, way: str) -> None:
    results = []
    for wrapped in (True, False):
        network = nn.Sequential(layer_in(way), nn.ReLU(inplace=True))
        leaf = values().requires_grad_()
        y = network(leaf.as_subclass(kind) if wrapped else leaf)
        y.sum().backward()
        results.append([y.detach().as_subclass(Tensor), leaf.grad])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@EVERY_KIND
def test_in_place_layers_overwrite_them(kind: type) -> None:
    x = values().as_subclass(kind)
    y = layer_in("train", in_place=True)(x)
    assert type(y) is kind
    assert y.data_ptr() == x.data_ptr()
    torch.testing.assert_close(y.detach().as_subclass(Tensor), layer_in("train")(values()))


def test_what_the_class_carries_is_kept() -> None:
    x = values().as_subclass(Labelled)
    x.label = "slice 7"
    for way in WAYS:
        assert layer_in(way)(x).label == "slice 7"
    assert sync_batch_norm(x, training=True).label == "slice 7"


@EVERY_WAY
def test_a_class_without_torch_function_gives_tensors(way: str) -> None:
    y = layer_in(way)(values().as_subclass(Opaque))
    assert type(y) is type(nn.BatchNorm1d(3)(values().as_subclass(Opaque))) is Tensor
    torch.testing.assert_close(y, layer_in(way)(values()), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of dynamo, about MONAI's own methods
@EVERY_KIND
@EVERY_WAY
def test_compiled_layers_keep_the_class(kind: type, way: str) -> None:
    torch.compiler.reset()
    layer = layer_in(way)
    fullgraph = kind is not MetaTensor  # which dynamo cannot trace with nn.BatchNorm1d either
    compiled = torch.compile(layer, backend="eager", fullgraph=fullgraph)
    y = compiled(values().as_subclass(kind))
    assert type(y) is kind
    torch.testing.assert_close(y.detach().as_subclass(Tensor), layer_in(way)(values()).detach())


def test_monai_keeps_its_metadata() -> None:
    x = MetaTensor(values(), meta={"spacing": 0.5})
    for way in WAYS:
        y = nn.Sequential(layer_in(way), nn.ReLU(inplace=True))(x)
        assert y.meta["spacing"] == 0.5
        set_track_meta(False)
        try:
            assert type(layer_in(way)(x)) is Tensor
        finally:
            set_track_meta(True)


@EVERY_KIND
@EVERY_WAY
@pytest.mark.parametrize("of_input", [True, False])
def test_residual_and_mask_may_be_of_the_class_too(kind: type, way: str, of_input: bool) -> None:
    mask = torch.arange(5).expand(4, 5) < 3
    expected = layer_in(way)(values(), 2 * values(), mask).detach()
    input = values().as_subclass(kind) if of_input else values()
    leaf = (2 * values()).requires_grad_()
    y = layer_in(way)(input, leaf.as_subclass(kind), mask.as_subclass(kind))
    assert type(y) is kind  # as of nn.BatchNorm1d(3)(input) + residual
    torch.testing.assert_close(y.detach().as_subclass(Tensor), expected, rtol=0, atol=0)
    y.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.ones(4, 3, 5))
    y = layer_in(way)(values(), leaf, mask.as_subclass(kind))
    assert type(y) is Tensor


PARTS = ("weight", "bias", "running_mean", "running_var")


@EVERY_KIND
@EVERY_WAY
@pytest.mark.parametrize("part", PARTS)
def test_parameters_and_statistics_may_be_of_the_class(kind: type, way: str, part: str) -> None:
    results = []
    for wrapped in (True, False):
        layer, theirs = layer_in(way), nn.BatchNorm1d(3).train(way == "train")
        if wrapped:
            for each in (layer, theirs):
                tensor = getattr(each, part).detach().as_subclass(kind)
                is_parameter = part in ("weight", "bias")
                setattr(each, part, nn.Parameter(tensor) if is_parameter else tensor)
        leaf = values().requires_grad_()
        y = layer(leaf)
        assert type(y) is type(theirs(values()))
        y.square().sum().backward()
        gradients = leaf.grad, layer.weight.grad, layer.bias.grad
        results.append([y, *gradients, layer.running_mean, layer.running_var])
    for got, expected in zip(*results, strict=True):
        if expected is not None:
            plain = got.detach().as_subclass(Tensor)
            torch.testing.assert_close(plain, expected.detach(), rtol=0, atol=0)


class Scaled(nn.Parameter):
    """A subclass of Parameter, as sharding libraries define."""


def test_parameters_of_another_class_and_buffers_take_the_shortest_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = SyncBatchNorm(3)
    layer.weight = Scaled(torch.ones(3))
    layer.running_mean = nn.Buffer(torch.zeros(3))
    y = layer(values())
    assert type(y) is Tensor
    y.square().sum().backward()
    assert layer.weight.grad is not None
    monkeypatch.setattr(dispatch, "_batch_norm_of_subclass", None)  # not called again
    assert type(layer(values())) is Tensor


@EVERY_KIND
@EVERY_WAY
def test_lists(kind: type, way: str) -> None:
    expected = layer_in(way)([values(), values() + 1])
    leaves = [values().requires_grad_(), (values() + 1).requires_grad_()]
    ys = layer_in(way)([leaf.as_subclass(kind) for leaf in leaves])
    assert [type(y) for y in ys] == [kind] * 2
    sum(y.square().sum() for y in ys).backward()
    assert all(leaf.grad is not None for leaf in leaves)
    for y, plain in zip(ys, expected, strict=True):
        torch.testing.assert_close(y.detach().as_subclass(Tensor), plain.detach(), rtol=0, atol=0)


@EVERY_KIND
def test_over_ranks(kind: type) -> None:
    def step(rank: int, comm: Communicator) -> list[Tensor]:
        leaf = (values() + rank).requires_grad_()
        layer = SyncBatchNorm(3, process_group=comm)
        y = layer(leaf.as_subclass(kind) if rank == 0 else leaf)
        assert type(y) is (kind if rank == 0 else Tensor)
        y.square().sum().backward()
        return [y.detach().as_subclass(Tensor), leaf.grad]

    both = torch.cat([values(), values() + 1]).requires_grad_()
    expected = SyncBatchNorm(3)(both)
    expected.square().sum().backward()
    for index, got in enumerate(zip(*run_ranks(2, step), strict=True)):
        torch.testing.assert_close(torch.cat(got), [expected.detach(), both.grad][index])
