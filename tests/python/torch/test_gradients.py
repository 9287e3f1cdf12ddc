"""Gradients over several shards: by finite differences, and rank by rank in threads."""

from __future__ import annotations

import pytest
import torch
from shard_problems import SHAPES, VARIANTS, Problem, leaf
from shard_reference import normalize_shards
from thread_ranks import run_ranks
from torch import Tensor

import syncnorm
from syncnorm.torch import SyncBatchNorm, sync_batch_norm, sync_batch_norm_shards


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("centering", ["on", "off"])
@pytest.mark.parametrize("weighting", ["count", "equal", "batch"])
@pytest.mark.parametrize("count", SHAPES)
def test_gradients_are_those_of_finite_differences(
    count: int, weighting: str, centering: str, variant: str
) -> None:
    problem = Problem(count, weighting=weighting, centering=centering, **VARIANTS[variant])
    assert torch.autograd.gradcheck(problem.normalized, problem.leaves())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("weighting", ["count", "equal", "batch"])
def test_shards_equal_the_reference(weighting: str, variant: str) -> None:
    problem = Problem(3, weighting=weighting, **VARIANTS[variant])
    ys = problem.normalized(*problem.leaves())
    got = torch.autograd.grad(ys, problem.leaves(), problem.dys)
    expected_ys = normalize_shards(
        problem.xs,
        problem.weight,
        problem.bias,
        masks=problem.masks,
        residuals=problem.residuals,
        **problem.options,
    ).ys
    expected = torch.autograd.grad(expected_ys, problem.leaves(), problem.dys)
    torch.testing.assert_close(list(ys), expected_ys, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("weighting", ["count", "equal", "batch"])
@pytest.mark.parametrize("count", [2, 3])
def test_thread_ranks_equal_the_shards(count: int, weighting: str, variant: str) -> None:
    problem = Problem(count, weighting=weighting, **VARIANTS[variant])
    ys = problem.normalized(*problem.leaves())
    weight, bias, *others = torch.autograd.grad(ys, problem.leaves(), problem.dys)

    def rank_body(rank: int, comm: syncnorm.Communicator) -> tuple[Tensor, list[Tensor]]:
        leaves = [leaf(problem.weight.detach().clone()), leaf(problem.bias.detach().clone())]
        leaves.append(leaf(problem.xs[rank].detach().clone()))
        if problem.residuals:
            leaves.append(leaf(problem.residuals[rank].detach().clone()))
        y = sync_batch_norm(
            leaves[2],
            weight=leaves[0],
            bias=leaves[1],
            training=True,
            residual=leaves[3] if problem.residuals else None,
            mask=problem.masks[rank] if problem.masks else None,
            process_group=comm,
            **problem.options,
        )
        y.backward(problem.dys[rank])
        return y, [tensor.grad for tensor in leaves]

    ranks = run_ranks(count, rank_body)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close([y for y, _ in ranks], list(ys), **close)
    torch.testing.assert_close(sum(grads[0] for _, grads in ranks), weight, **close)
    torch.testing.assert_close(sum(grads[1] for _, grads in ranks), bias, **close)
    torch.testing.assert_close([grads[2] for _, grads in ranks], others[:count], **close)
    if problem.residuals:
        torch.testing.assert_close([grads[3] for _, grads in ranks], others[count:], **close)


@pytest.mark.parametrize(("reduction", "factor"), [("local", None), ("sum", 1.0), ("mean", 0.5)])
def test_what_the_parameter_gradients_report(reduction: str, factor: float | None) -> None:
    xs = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 4)]
    dys = [torch.randn_like(x) for x in xs]

    def rank_body(rank: int, comm: syncnorm.Communicator) -> tuple[Tensor, Tensor]:
        layer = SyncBatchNorm(3, process_group=comm, grad_reduction=reduction).double()
        layer(xs[rank]).backward(dys[rank])
        return layer.weight.grad, layer.bias.grad

    ranks = run_ranks(2, rank_body)
    ys = normalize_shards(xs).ys
    for rank, (dweight, dbias) in enumerate(ranks):
        parts = [((dy * y).sum(0), dy.sum(0)) for dy, y in zip(dys, ys, strict=True)]
        expected = parts[rank]
        if factor is not None:
            expected = tuple(factor * (a + b) for a, b in zip(*parts, strict=True))
        torch.testing.assert_close((dweight, dbias), expected)


@pytest.mark.parametrize("factor", ["unbiased", "biased", "unbiased_local", "unbiased_rank"])
@pytest.mark.parametrize("weighting", ["count", "equal", "batch"])
def test_running_statistics_of_thread_ranks(weighting: str, factor: str) -> None:
    xs = [torch.randn(n, 3, 2, dtype=torch.float64) for n in (2, 4)]

    def rank_body(rank: int, comm: syncnorm.Communicator) -> SyncBatchNorm:
        layer = SyncBatchNorm(
            3, process_group=comm, weighting=weighting, variance_factor=factor
        ).double()
        layer(xs[rank])
        return layer

    result = normalize_shards(xs, weighting=weighting)
    for rank, layer in enumerate(run_ranks(2, rank_body)):
        local = 2 * xs[rank].shape[0]
        count = {
            "unbiased": 12,
            "biased": None,
            "unbiased_local": 2 * local,
            "unbiased_rank": local,
        }
        n = count[factor]
        var = result.var if n is None else result.var * n / (n - 1)
        torch.testing.assert_close(layer.running_mean, 0.1 * result.mean)
        torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * var)
        assert layer.num_batches_tracked.item() == 1


@pytest.mark.parametrize("affine", [True, False])
def test_a_rank_that_needs_no_gradient_joins_the_backward_pass(affine: bool) -> None:
    xs = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 4)]
    dys = [torch.randn_like(x) for x in xs]

    def rank_body(rank: int, comm: syncnorm.Communicator) -> Tensor | None:
        layer = SyncBatchNorm(3, process_group=comm, affine=affine).double()
        layer.requires_grad_(rank == 0)
        x = xs[rank].clone().requires_grad_(rank == 0)
        y = layer(x)
        assert y.requires_grad
        y.backward(dys[rank])
        return x.grad

    got, nothing = run_ranks(2, rank_body)
    leaves = [leaf(x.clone()) for x in xs]
    expected = torch.autograd.grad(normalize_shards(leaves).ys, leaves, dys)[0]
    torch.testing.assert_close(got, expected)
    assert nothing is None


def test_an_unused_shard_counts_as_a_gradient_of_zero() -> None:
    problem = Problem(2)
    used = problem.normalized(*problem.leaves())[1]
    got = torch.autograd.grad(used, problem.leaves(), problem.dys[1])
    zeros = [torch.zeros_like(problem.dys[0]), problem.dys[1]]
    ys = normalize_shards(problem.xs, problem.weight, problem.bias).ys
    torch.testing.assert_close(got, torch.autograd.grad(ys, problem.leaves(), zeros))


def test_shards_update_running_statistics_once() -> None:
    xs = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 4)]
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    batches = torch.tensor(0)
    sync_batch_norm_shards(xs, mean, var, num_batches_tracked=batches)
    result = normalize_shards(xs)
    torch.testing.assert_close(mean, 0.1 * result.mean)
    torch.testing.assert_close(var, 0.9 + 0.1 * result.var * 6 / 5)
    assert batches.item() == 1


@pytest.mark.parametrize("reduction", ["local", "sum", "mean"])
def test_parameter_gradients_of_shards(reduction: str) -> None:
    problem = Problem(3, grad_reduction=reduction)
    ys = problem.normalized(*problem.leaves())
    got = torch.autograd.grad(ys, [problem.weight, problem.bias], problem.dys)
    expected_ys = normalize_shards(problem.xs, problem.weight, problem.bias).ys
    expected = torch.autograd.grad(expected_ys, [problem.weight, problem.bias], problem.dys)
    factor = 1 / 3 if reduction == "mean" else 1
    torch.testing.assert_close(got, tuple(factor * gradient for gradient in expected))


@pytest.mark.parametrize(
    ("inputs", "more", "message"),
    [
        ([], {}, "inputs: got no tensor"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], {}, r"inputs\[1\]: got shape \(2, 4\)"),
        ([torch.zeros(2, 3), torch.zeros(2, 3).double()], {}, r"inputs\[1\]: .*float64"),
        ([torch.zeros(2, 3)] * 2, {"masks": [None]}, "masks: got 1, expected 2"),
        ([torch.zeros(2, 3)], {"residuals": [torch.zeros(2, 4)]}, "residual: got shape"),
    ],
)
def test_refused_shards(inputs: list[Tensor], more: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sync_batch_norm_shards(inputs, **more)
