"""What autograd is told, and what it is refused."""

from __future__ import annotations

import pytest
import torch
from thread_ranks import run_ranks
from torch import Tensor, nn

import syncbn
from syncbn.torch import SyncBatchNorm, sync_batch_norm_shards


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


@pytest.mark.parametrize("changed", ["input", "weight"])
@pytest.mark.parametrize("training", [True, False])
def test_changing_what_was_saved_is_noticed(changed: str, training: bool) -> None:
    layer = SyncBatchNorm(3).train(training)
    x = torch.randn(4, 3).requires_grad_()
    inside = x * 1
    y = layer(inside)
    with torch.no_grad():
        (inside if changed == "input" else layer.weight).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


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


def test_nothing_is_recorded_where_nothing_needs_a_gradient() -> None:
    layer = SyncBatchNorm(3, affine=False)
    assert not layer(torch.randn(4, 3)).requires_grad
    assert not layer.eval()(torch.randn(4, 3)).requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_autograd_updates_statistics(mode: type) -> None:
    def rank_body(_: int, comm: syncbn.Communicator) -> Tensor:
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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_first_derivatives_with_create_graph_and_no_second_ones(
    training: bool, residual: bool
) -> None:
    layer = SyncBatchNorm(3).train(training)
    x = torch.randn(4, 3).requires_grad_()
    other = torch.randn(4, 3).requires_grad_() if residual else None
    inputs = [x, layer.weight, *([other] if residual else [])]
    loss = layer(x, other).pow(3).sum()
    expected = torch.autograd.grad(loss, inputs, retain_graph=True)
    gradients = torch.autograd.grad(loss, inputs, create_graph=True)
    torch.testing.assert_close(gradients, expected, rtol=0, atol=0)
    with pytest.raises(syncbn.UnsupportedError, match=r"second derivative.*create_graph"):
        gradients[0].pow(2).sum().backward()


def test_no_second_derivative_of_shards() -> None:
    x = torch.randn(4, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(
        sync_batch_norm_shards([x])[0].pow(3).sum(), x, create_graph=True
    )
    with pytest.raises(syncbn.UnsupportedError, match="second derivative"):
        gradient.sum().backward()


def test_the_output_may_be_changed_in_place() -> None:
    layer = SyncBatchNorm(3, affine=False)
    x = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    gradients = [
        torch.autograd.grad(relu(layer(x)).pow(2).sum(), x) for relu in (torch.relu, torch.relu_)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
