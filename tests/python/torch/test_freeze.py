"""freeze: running statistics in training too, no gradient of weight and bias, nobody talks."""

from __future__ import annotations

import copy

import pytest
import torch
from thread_ranks import run_ranks
from torch import nn

from syncnorm import Communicator
from syncnorm.comm import thread_group
from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm


def random_layer(**options: object) -> SyncBatchNorm:
    layer = SyncBatchNorm(5, dtype=torch.float64, **options)
    with torch.no_grad():
        layer.weight.uniform_(-2, 2)
        layer.bias.normal_()
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer


@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_an_evaluation_computes(training: bool) -> None:
    layer = random_layer(freeze=True).train(training)
    before = copy.deepcopy(layer.state_dict())
    theirs = nn.BatchNorm2d(5, dtype=torch.float64).eval()
    theirs.load_state_dict(before)
    x = torch.randn(3, 5, 2, 4, dtype=torch.float64, requires_grad=True)
    same_x = x.detach().clone().requires_grad_()
    y, expected = layer(x), theirs(same_x)
    (y**2).sum().backward()
    (expected**2).sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(x.grad, same_x.grad)
    assert layer.weight.grad is None
    assert layer.bias.grad is None
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_nothing_to_differentiate_gives_an_output_without_gradient() -> None:
    assert not random_layer(freeze=True)(torch.randn(3, 5, dtype=torch.float64)).requires_grad


def test_residual_and_activation_are_applied() -> None:
    layer = random_layer(freeze=True, activation="relu")
    plain = random_layer(freeze=True)
    plain.load_state_dict(layer.state_dict())
    x, residual = torch.randn(2, 3, 5, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(layer(x, residual), (plain(x) + residual).relu())
    (gradient,) = torch.autograd.grad(layer(x, residual).sum(), residual)
    torch.testing.assert_close(gradient, (plain(x) + residual > 0).double())


def test_no_rank_talks_to_another() -> None:
    # The other rank never comes: a sum over the group would not end well.
    lonely = thread_group(2, timeout=0.5)[0]
    layer = random_layer(freeze=True, process_group=lonely)
    y = layer(torch.randn(3, 5, dtype=torch.float64, requires_grad=True))
    y.sum().backward()


def test_it_can_be_set_at_any_time() -> None:
    layer = SyncBatchNorm(5)
    x = torch.randn(8, 5) + 3
    layer(x)
    after_one = layer.running_mean.clone()
    layer.freeze = True
    layer(x)
    assert torch.equal(layer.running_mean, after_one)
    assert layer.num_batches_tracked.item() == 1
    layer.freeze = False
    layer(x).sum().backward()
    assert layer.num_batches_tracked.item() == 2
    assert layer.weight.grad is not None


@pytest.mark.parametrize("training", [True, False])
def test_it_needs_running_statistics(training: bool) -> None:
    layer = SyncBatchNorm(5, track_running_stats=False).train(training)
    layer.freeze = True
    with pytest.raises(ValueError, match="freeze: the layer has no running statistics"):
        layer(torch.randn(3, 5))


def test_without_affine_parameters() -> None:
    layer = SyncBatchNorm(5, affine=False, freeze=True)
    layer.running_mean.fill_(2)
    x = torch.randn(3, 5)
    torch.testing.assert_close(layer(x), (x - 2) / (1 + 1e-5) ** 0.5)


def test_a_model_is_converted_frozen() -> None:
    model = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(5)), freeze=True)
    assert model[0].freeze
    model(torch.randn(3, 5))
    assert model[0].num_batches_tracked.item() == 0


def test_a_part_without_gradients_records_a_graph_only_where_ranks_may_need_it() -> None:
    def body(rank: int, communicator: Communicator) -> list[bool]:
        layer = SyncBatchNorm(5, process_group=communicator).requires_grad_(False)
        x, recorded = torch.randn(3, 5), []
        recorded.append(layer(x).requires_grad)
        with torch.no_grad():
            recorded.append(layer(x).requires_grad)
        layer.freeze = True
        recorded.append(layer(x).requires_grad)
        return recorded

    assert run_ranks(2, body) == [[True, False, False]] * 2
    assert run_ranks(1, body) == [[False, False, False]]
