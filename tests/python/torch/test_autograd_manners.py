"""What autograd is told, and what it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from layouts import LAYOUTS, laid_out
from shard_reference import normalize_shards
from thread_ranks import run_ranks
from torch import Tensor, nn

import syncnorm
from syncnorm.torch import SyncBatchNorm, sync_batch_norm_shards


def versions(layer: nn.Module) -> list[int]:
    return [buffer._version for buffer in layer.buffers()]


@pytest.mark.parametrize("recorded", [True, False])
def test_training_announces_the_buffers_it_wrote(recorded: bool) -> None:
    layer = SyncBatchNorm(3)
    x = torch.randn(4, 3)
    before = versions(layer)
    with torch.set_grad_enabled(recorded):
        layer(x)
    assert all(after > old for after, old in zip(versions(layer), before, strict=True))
    before = versions(layer.eval())
    layer(x)
    assert versions(layer) == before


def test_shards_announce_the_buffers_they_wrote() -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    before = mean._version, var._version
    sync_batch_norm_shards([torch.randn(4, 3)], mean, var)
    assert mean._version > before[0]
    assert var._version > before[1]


def test_a_graph_that_saved_a_buffer_notices_the_update() -> None:
    layer = SyncBatchNorm(3)
    scale = torch.ones(3, requires_grad=True)
    loss = (scale * layer.running_var).sum()
    layer(torch.randn(4, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("changed", ["input", "weight", "mask", "output"])
def test_changing_what_was_saved_is_noticed(changed: str) -> None:
    layer = SyncBatchNorm(3, activation="relu")
    x, mask = torch.randn(4, 3).requires_grad_(), torch.ones(4, dtype=torch.uint8)
    inside = x * 1
    y = layer(inside, inside, mask)
    saved = {"input": inside, "weight": layer.weight, "mask": mask, "output": y}
    with torch.no_grad():
        saved[changed].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("training", [True, False])
def test_tensors_are_kept_where_hooks_and_the_engine_see_them(training: bool) -> None:
    layer = SyncBatchNorm(3, activation="relu").train(training)
    x = torch.randn(4, 3, requires_grad=True)
    y = layer(x, x)
    assert not any(isinstance(kept, Tensor) for kept in vars(y.grad_fn).values())
    y.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_hooks_may_store_what_is_saved_elsewhere_and_in_another_layout(
    layout: str, training: bool
) -> None:
    layer = SyncBatchNorm(3, activation="leaky_relu", dtype=torch.float64).train(training)
    x, residual, dy = (laid_out(torch.randn(2, 3, 4, 5).double(), layout) for _ in range(3))
    inputs = [x.requires_grad_(), residual.requires_grad_(), layer.weight, layer.bias]
    other = LAYOUTS[1 - LAYOUTS.index(layout)]

    def unpack(tensor: Tensor) -> Tensor:
        return laid_out(tensor, other).clone() if tensor.dim() == 4 else tensor.clone()

    expected = torch.autograd.grad(layer(x, residual), inputs, dy)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), unpack):
        hooked = layer(x, residual)
    torch.testing.assert_close(torch.autograd.grad(hooked, inputs, dy), expected)
    with torch.autograd.graph.save_on_cpu():
        offloaded = layer(x, residual)
    torch.testing.assert_close(torch.autograd.grad(offloaded, inputs, dy), expected)


def test_a_retained_graph_gives_the_same_gradients_again() -> None:
    layer = SyncBatchNorm(3, activation="relu")
    x, residual = torch.randn(2, 4, 3).requires_grad_().unbind()
    y = layer(x, residual)
    inputs = [x, residual, layer.weight, layer.bias]
    first = torch.autograd.grad(y, inputs, torch.ones_like(y), retain_graph=True)
    second = torch.autograd.grad(y, inputs, torch.ones_like(y))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("wanted", [["x"], ["weight"], ["bias"], ["residual"], ["x", "bias"]])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_only_the_gradients_that_are_wanted(
    wanted: list[str], training: bool, activation: str
) -> None:
    layer = SyncBatchNorm(3, activation=activation).train(training)
    x, residual, dy = torch.randn(3, 4, 3).unbind()
    tensors = {"x": x, "residual": residual, "weight": layer.weight, "bias": layer.bias}
    results = []
    for names in [list(tensors), wanted]:
        for name, tensor in tensors.items():
            tensor.grad = None
            tensor.requires_grad_(name in names)
        layer(x, residual).backward(dy)
        results.append({name: tensor.grad for name, tensor in tensors.items()})
    everything, some = results
    for name in tensors:
        if name in wanted:
            torch.testing.assert_close(some[name], everything[name], rtol=0, atol=0)
        else:
            assert some[name] is None


@pytest.mark.parametrize("needed", [["x"], ["weight"], ["bias"], ["residual"], []])
def test_every_rank_joins_the_backward_pass_whatever_it_needs(needed: list[str]) -> None:
    xs, residuals, dys = ([torch.randn(n, 3).double() for n in (2, 4)] for _ in range(3))

    def rank_body(rank: int, comm: syncnorm.Communicator) -> dict[str, Tensor | None]:
        layer = SyncBatchNorm(3, process_group=comm, activation="relu", dtype=torch.float64)
        leaves = {"x": xs[rank].clone(), "residual": residuals[rank].clone()}
        leaves |= dict(layer.named_parameters())
        for name, tensor in leaves.items():
            tensor.requires_grad_(rank == 0 or name in needed)
        layer(leaves["x"], leaves["residual"]).backward(dys[rank])
        return {name: tensor.grad for name, tensor in leaves.items()}

    everything, some = run_ranks(2, rank_body)
    leaves = [x.clone().requires_grad_() for x in xs]
    ys = normalize_shards(leaves, residuals=residuals, activation="relu").ys
    expected = torch.autograd.grad(ys, leaves, dys)
    torch.testing.assert_close(everything["x"], expected[0])
    assert [name for name, gradient in some.items() if gradient is not None] == needed
    if needed == ["x"]:
        torch.testing.assert_close(some["x"], expected[1])


class NoGradient(torch.autograd.Function):
    """Passes no gradient on, not even zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> None:
        return None


def test_an_undefined_gradient_counts_as_zero() -> None:
    xs, dys = ([torch.randn(n, 3).double() for n in (2, 4)] for _ in range(2))

    def rank_body(rank: int, comm: syncnorm.Communicator) -> Tensor:
        layer = SyncBatchNorm(3, process_group=comm, affine=False)
        x = xs[rank].clone().requires_grad_()
        y = layer(x)
        (y if rank == 0 else NoGradient.apply(y)).backward(dys[rank])
        return x.grad

    leaves = [x.clone().requires_grad_() for x in xs]
    zeros = [dys[0], torch.zeros_like(dys[1])]
    expected = torch.autograd.grad(normalize_shards(leaves).ys, leaves, zeros)
    torch.testing.assert_close(run_ranks(2, rank_body), list(expected))


def test_the_residual_may_be_the_input() -> None:
    x, dy = torch.randn(2, 4, 3).double().unbind()
    x.requires_grad_()
    y = SyncBatchNorm(3, affine=False, activation="relu")(x, x)
    expected_y = normalize_shards([x], residuals=[x], activation="relu").ys[0]
    torch.testing.assert_close(y, expected_y)
    got, expected = (torch.autograd.grad(out, x, dy) for out in (y, expected_y))
    torch.testing.assert_close(got, expected)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded samples": lambda base: base[:1].expand(4, -1, -1),
    "expanded positions": lambda base: base[:, :, :1].expand(-1, -1, 5),
    "every second position": lambda base: base[:, :, ::2],
    "transposed": lambda base: base.transpose(0, 2),
    "a slice of the channels": lambda base: base[:, 1:],
    "not the first sample": lambda base: base[1:],
}


@pytest.mark.parametrize("view", VIEWS)
def test_inputs_and_gradients_may_be_views(view: str) -> None:
    base, of_dy = torch.randn(2, 4, 4, 4).double().unbind()
    base.requires_grad_()
    x, dy = VIEWS[view](base), VIEWS[view](of_dy)
    y = SyncBatchNorm(x.shape[1], affine=False)(x)
    expected_y = normalize_shards([x]).ys[0]
    for ours, expected, gradient in [
        (y, expected_y, dy),
        (y.sum(), expected_y.sum(), None),
        (y.pow(2).mean(), expected_y.pow(2).mean(), None),
    ]:
        got, right = (
            torch.autograd.grad(out, base, gradient, retain_graph=True) for out in (ours, expected)
        )
        torch.testing.assert_close(got, right)


def test_nothing_is_recorded_where_nothing_needs_a_gradient() -> None:
    layer = SyncBatchNorm(3, affine=False)
    assert not layer(torch.randn(4, 3)).requires_grad
    assert not layer.eval()(torch.randn(4, 3)).requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_autograd_updates_statistics(mode: type) -> None:
    def rank_body(_: int, comm: syncnorm.Communicator) -> Tensor:
        layer = SyncBatchNorm(3, process_group=comm)
        with mode():
            assert not layer(torch.ones(4, 3)).requires_grad
        return layer.running_mean

    for mean in run_ranks(2, rank_body):
        torch.testing.assert_close(mean, torch.full((3,), 0.1))


def test_a_module_made_in_inference_mode_trains_there() -> None:
    with torch.inference_mode():
        layer = SyncBatchNorm(3)
        layer(torch.ones(4, 3))
    assert layer.num_batches_tracked.item() == 1


def test_the_output_may_be_changed_in_place() -> None:
    layer = SyncBatchNorm(3, affine=False)
    x = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    gradients = [
        torch.autograd.grad(relu(layer(x)).pow(2).sum(), x) for relu in (torch.relu, torch.relu_)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
