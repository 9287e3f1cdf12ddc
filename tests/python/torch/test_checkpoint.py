"""Activation checkpointing: the recomputation talks again, and moves no running statistics."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from scenarios_checkpoint import WRAPS, Wrap, as_it_is, not_reentrant, reentrant
from thread_ranks import run_ranks
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from worlds import World

import syncnorm
from syncnorm.torch import SyncBatchNorm, sync_batch_norm_shards

BOTH = pytest.mark.parametrize("use_reentrant", [True, False])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(2, tmp_path_factory.mktemp("world"), "scenarios_checkpoint")


def assert_same_bits(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=False)


@pytest.mark.parametrize("wrap", WRAPS)
def test_training_is_the_same_to_the_bit(world: World, wrap: str) -> None:
    for results in world["one_call"]:
        assert_same_bits(results[wrap], results["as_it_is"])
        state = results[wrap][-1]
        assert state["0.norm.num_batches_tracked"].item() == 2
        assert state["1.norm_add.num_batches_tracked"].item() == 2


@pytest.mark.parametrize("wrap", ["reentrant", "not_reentrant"])
def test_several_calls_before_one_backward_pass(world: World, wrap: str) -> None:
    for results in world["calls_in_flight"]:
        assert_same_bits(results[wrap], results["as_it_is"])
        assert results[wrap][-1]["0.norm.num_batches_tracked"].item() == 4


def test_a_rank_that_needs_no_gradient_recomputes_with_the_others(world: World) -> None:
    first, second = world["only_the_first_rank_needs_gradients"]
    assert_same_bits(first["not_reentrant"], first["as_it_is"])
    assert_same_bits(second["not_reentrant"][-1], second["as_it_is"][-1])
    assert second["not_reentrant"][1:4] == [None] * 3


def test_a_reversible_network_updates_its_statistics_once(world: World) -> None:
    for (expected, expected_buffers), (got, buffers) in world["reversible"]:
        assert_same_bits(buffers, expected_buffers)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@BOTH
def test_ranks_that_are_threads(use_reentrant: bool) -> None:
    xs = [torch.randn(n, 3) for n in (2, 5)]

    def rank_body(rank: int, comm: syncnorm.Communicator) -> list[Tensor]:
        results = []
        for wrap in (as_it_is, partial(checkpoint, use_reentrant=use_reentrant)):
            layer = SyncBatchNorm(3, process_group=comm)
            x = xs[rank].clone().requires_grad_()
            y = wrap(layer, x * 1)
            y.pow(3).sum().backward()
            results.append([y, x.grad, layer.weight.grad, layer.state_dict()])
        return results

    for expected, got in run_ranks(2, rank_body):
        assert_same_bits(got, expected)


@BOTH
@pytest.mark.parametrize("momentum", [0.5, None])
def test_one_process_updates_its_statistics_once(use_reentrant: bool, momentum: float) -> None:
    plain, checkpointed = (SyncBatchNorm(3, momentum=momentum) for _ in range(2))
    for _ in range(2):
        x = torch.randn(4, 3, requires_grad=True)
        plain(x)
        checkpoint(checkpointed, x, use_reentrant=use_reentrant).sum().backward()
    assert_same_bits(checkpointed.state_dict(), plain.state_dict())


@BOTH
def test_shards_update_their_statistics_once(use_reentrant: bool) -> None:
    mean, var, batches = torch.zeros(3), torch.ones(3), torch.tensor(0)

    def normalize(*xs: Tensor) -> tuple[Tensor, ...]:
        return tuple(sync_batch_norm_shards(xs, mean, var, num_batches_tracked=batches))

    xs = torch.ones(2, 4, 3, requires_grad=True).unbind()
    ys = checkpoint(normalize, *xs, use_reentrant=use_reentrant)
    after_forward = mean.clone()
    torch.stack(ys).sum().backward()
    assert_same_bits(mean, after_forward)
    torch.testing.assert_close(mean, torch.full((3,), 0.1))
    assert batches.item() == 1


def test_a_forward_pass_between_backward_passes_moves_the_statistics() -> None:
    """Only inside a backward pass does a forward pass repeat another one."""
    layer = SyncBatchNorm(3)
    x = torch.randn(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    layer(gradient).sum().backward()
    assert layer.num_batches_tracked.item() == 2
    x.register_hook(lambda gradient: layer(gradient.detach()))
    layer(x).sum().backward()
    assert layer.num_batches_tracked.item() == 3


def test_evaluation_is_recomputed_too() -> None:
    layer = SyncBatchNorm(3).eval()
    x = torch.randn(4, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).pow(3).sum(), x)
    for wrap in (reentrant, not_reentrant):
        x.grad = None
        wrap(layer, x).pow(3).sum().backward()
        assert_same_bits(x.grad, expected)


@pytest.mark.parametrize("wrap", [as_it_is, not_reentrant])
def test_second_derivatives_of_what_is_recomputed(wrap: Wrap) -> None:
    layer = SyncBatchNorm(3, activation="leaky_relu", dtype=torch.float64)

    def penalty(x: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(wrap(layer, x).pow(3).sum(), x, create_graph=True)
        return gradient.pow(2).sum()

    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty, x)
