"""in_place=True: the output overwrites the input, and backward starts from the output."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from layouts import LAYOUTS, laid_out
from thread_ranks import run_ranks
from torch import Tensor, nn

import syncnorm
from syncnorm.torch import SyncBatchNorm, sync_batch_norm_shards

INVERTIBLE = [
    {"activation": "identity"},
    {"activation": "leaky_relu", "negative_slope": 0.2},
    {"activation": "elu"},
]
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def layer_of(channels: int, dtype: torch.dtype = torch.float64, **options: Any) -> SyncBatchNorm:
    layer = SyncBatchNorm(channels, dtype=dtype, **options)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2.0).mul_(torch.tensor([1.0, -1.0]).repeat(channels)[:channels])
        layer.bias.normal_()
    return layer


def twins(channels: int, **options: Any) -> tuple[SyncBatchNorm, SyncBatchNorm]:
    """The same layer, in place and not."""
    layer = layer_of(channels, in_place=True, **options)
    other = copy.deepcopy(layer)
    other.in_place = False
    return layer, other


def run(layer: SyncBatchNorm, x: Tensor, dy: Tensor, **inputs: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    y = layer(leaf * 1.5, **inputs)
    return [y.detach().clone(), *torch.autograd.grad(y, [leaf, *layer.parameters()], dy)]


@pytest.mark.parametrize("options", INVERTIBLE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_the_other_layer_does(
    training: bool, layout: str, options: dict[str, Any]
) -> None:
    layer, other = (each.train(training) for each in twins(5, **options))
    x, dy = (laid_out(torch.randn(4, 5, 3, 6, dtype=torch.float64), layout) for _ in range(2))
    inputs = {"mask": torch.rand(4, 3, 6) > 0.3} if training else {}
    torch.testing.assert_close(run(layer, x, dy, **inputs), run(other, x, dy, **inputs), **EXACT)
    torch.testing.assert_close(layer.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("recorded", ["grad", "no grad", "inference"])
@pytest.mark.parametrize("training", [True, False])
def test_the_output_is_the_memory_of_the_input(training: bool, recorded: str) -> None:
    layer = layer_of(3, in_place=True).train(training)
    with torch.inference_mode(recorded == "inference"), torch.set_grad_enabled(recorded == "grad"):
        x = torch.randn(4, 3, dtype=torch.float64) * 2
        expected = copy.deepcopy(layer)(x.clone())
        y = layer(x)
    assert y.data_ptr() == x.data_ptr()
    assert torch.equal(x, expected)
    if recorded != "inference":
        assert x._version == 1
    assert y.requires_grad == (recorded == "grad")


def test_autograd_notices_a_changed_output_and_a_value_that_was_needed_before() -> None:
    layer, leaf = layer_of(3, in_place=True), torch.randn(4, 3, dtype=torch.float64)
    changed = layer(leaf.requires_grad_() * 2)
    changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed.sum().backward()
    needed = leaf.exp()  # whose gradient needs its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        layer(needed).sum().backward()


def test_an_input_with_gaps_is_copied() -> None:
    layer, other = twins(3)
    whole = torch.randn(4, 3, 10, dtype=torch.float64)
    before = whole.clone()
    y = layer(whole[:, :, ::2])
    assert torch.equal(whole, before)
    torch.testing.assert_close(y, other(whole[:, :, ::2]), rtol=0, atol=0)


def test_what_cannot_be_overwritten_is_refused() -> None:
    layer = layer_of(3, in_place=True)
    leaf = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    for call in (
        lambda: layer(leaf),
        lambda: layer.eval()(leaf),
        lambda: sync_batch_norm_shards([leaf, leaf], in_place=True),
    ):
        with pytest.raises(ValueError, match="a leaf that requires a gradient"):
            call()
    x = torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="residual"):
        layer(x, residual=x.clone())


def test_second_derivatives_are_refused() -> None:
    layer, leaf = layer_of(3, in_place=True), torch.randn(4, 3, dtype=torch.float64)
    y = layer(leaf.requires_grad_() * 2)
    (dx,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
    with pytest.raises(syncnorm.UnsupportedError, match="in_place=True"):
        dx.sum().backward()


def test_ranks_in_threads() -> None:
    layer, other = twins(4, activation="elu")
    xs = [torch.randn(n, 4, dtype=torch.float64) for n in (3, 5)]

    def body(rank: int, comm: syncnorm.Communicator) -> list[list[Tensor]]:
        results = []
        for twin in (layer, other):
            mine = copy.deepcopy(twin)
            mine.process_group = comm
            results.append(run(mine, xs[rank], xs[rank].sin()))
        return results

    for got, expected in run_ranks(2, body):
        torch.testing.assert_close(got, expected, **EXACT)


def test_shards() -> None:
    layer = layer_of(4)
    leaves = [torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 0, 5)]
    results = []
    for in_place in (True, False):
        xs = [leaf * 2 for leaf in leaves]
        ys = sync_batch_norm_shards(
            xs, weight=layer.weight, bias=layer.bias, activation="leaky_relu", in_place=in_place
        )
        assert [y.data_ptr() == x.data_ptr() for x, y in zip(xs, ys, strict=True) if len(x)] == (
            [in_place] * 2
        )
        loss = sum(y.pow(3).sum() for y in ys)
        results.append(torch.autograd.grad(loss, [*leaves, layer.weight, layer.bias]))
    torch.testing.assert_close(*results, **EXACT)


def test_a_weight_of_zero_stays_invertible() -> None:
    layer, other = twins(2)
    with torch.no_grad():
        layer.weight.zero_()
        other.weight.fill_(2.0**-12)  # the least that is used, as docs/mathematics.md says
    x, dy = (torch.randn(6, 2, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(run(layer, x, dy), run(other, x, dy), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits_lose_what_rounding_the_output_costs(dtype: torch.dtype) -> None:
    """The error in xhat is that of y, divided by the weight; so is that of dx, about."""
    layer, other = twins(4)
    layer, other = layer.to(torch.float32), other.to(torch.float32)
    x, dy = (torch.randn(64, 4, 5).to(dtype) for _ in range(2))
    got, expected = run(layer, x, dy), run(other, x, dy)
    assert torch.equal(got[0], expected[0])
    magnitude = got[0].float().abs().max() + layer.bias.abs().max()
    rounding = torch.finfo(dtype).eps * magnitude / layer.weight.abs().min()
    error = (got[1].float() - expected[1].float()).abs().max()
    assert error <= 2 * rounding * dy.float().abs().max() * expected[1].float().abs().max()


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """The memory that the graph of a training pass keeps, parameters aside."""
    kept: dict[int, int] = {}
    parameters = {p.data_ptr() for p in itertools.chain(model.parameters(), model.buffers())}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    assert y.requires_grad
    return sum(kept.values())


def test_a_block_keeps_one_tensor_instead_of_two_or_three() -> None:
    x = torch.randn(2, 8, 16, 16)

    def network(*norm: nn.Module) -> nn.Module:
        blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), *norm) for _ in range(4)]
        return nn.Sequential(*copy.deepcopy(blocks), nn.Conv2d(8, 8, 3))

    leaky = {"activation": "leaky_relu"}
    separate = kept_bytes(network(SyncBatchNorm(8), nn.LeakyReLU()), x)
    fused = kept_bytes(network(SyncBatchNorm(8, **leaky)), x)
    in_place = kept_bytes(network(SyncBatchNorm(8, in_place=True, **leaky)), x)
    small = 5000  # the vectors of float64
    assert separate == pytest.approx(x.nbytes * (1 + 4 * 3), abs=small)
    assert fused == pytest.approx(x.nbytes * (1 + 4 * 2), abs=small)
    assert in_place == pytest.approx(x.nbytes * (1 + 4), abs=small)


@pytest.mark.parametrize("options", INVERTIBLE, ids=str)
def test_compiled_code_computes_the_same_in_memory_of_its_own(options: dict[str, Any]) -> None:
    layer, other = twins(4, **options)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(x: Tensor) -> Tensor:
        return layer(x * 1.5)

    leaf, dy = (torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y = compiled(leaf)
    got = [y.detach(), *torch.autograd.grad(y, [leaf, *layer.parameters()], dy)]
    torch.testing.assert_close(got, run(other, leaf.detach(), dy), **EXACT)


@pytest.mark.parametrize("view", ["view", "slice"])
def test_gradients_through_a_view_that_is_overwritten(view: str) -> None:
    """Autograd takes the gradient of a Function's first tensor for that of the view."""

    def step(in_place: bool) -> list[Tensor]:
        torch.manual_seed(1)
        linear, z = nn.Linear(3, 3).double(), torch.randn(2, 4, 3, dtype=torch.float64)
        layer = SyncBatchNorm(3, in_place=in_place, activation="leaky_relu", dtype=torch.float64)
        hidden = linear(z)
        part = hidden.view(8, 3) if view == "view" else hidden.flatten(0, 1)[1:7]
        y = layer(part)
        loss = (y * torch.randn(y.shape, dtype=torch.float64)).sum()
        return list(torch.autograd.grad(loss, [*linear.parameters(), *layer.parameters()]))

    torch.testing.assert_close(step(True), step(False))


def test_one_tensor_twice_is_not_overwritten_twice() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="got a tensor twice"):
        sync_batch_norm_shards([x, x], in_place=True)
