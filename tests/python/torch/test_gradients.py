"""Gradients over several shards: by finite differences, and rank by rank in threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shard_reference import normalize_shards
from thread_ranks import run_ranks
from torch import Tensor

import syncbn
from syncbn.torch import SyncBatchNorm, sync_batch_norm, sync_batch_norm_shards

SHAPES = {1: [(4, 3, 2)], 2: [(3, 3, 2), (2, 3, 1)], 3: [(2, 3, 2), (0, 3, 2), (3, 3, 1)]}

# eps = 0.5 lies between the variances of the channels, so that eps_mode max clamps one of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "max": {"eps_mode": "max", "eps": 0.5, "masked": True},
    "relu": {"activation": "relu", "with_residual": True},
    "leaky_relu": {"activation": "leaky_relu", "negative_slope": 0.3, "masked": True},
    "all": {
        "eps_mode": "max",
        "eps": 0.5,
        "activation": "leaky_relu",
        "masked": True,
        "with_residual": True,
    },
}


class Problem:
    """Shards, parameters, residuals and masks of one small case."""

    def __init__(
        self,
        count: int,
        *,
        masked: bool = False,
        with_residual: bool = False,
        **options: Any,
    ) -> None:
        scale = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64).view(1, 3, 1)
        self.xs = [leaf(torch.randn(shape) * scale + 1) for shape in SHAPES[count]]
        self.weight, self.bias = leaf(torch.randn(3)), leaf(torch.randn(3))
        self.residuals = [leaf(torch.randn(x.shape)) for x in self.xs] if with_residual else None
        self.masks = None
        if masked:
            self.masks = [torch.rand(x.shape[0], *x.shape[2:]) < 0.7 for x in self.xs]
            self.masks[0][0] = True
        self.dys = [torch.randn(x.shape, dtype=torch.float64) for x in self.xs]
        self.options = options

    def leaves(self) -> list[Tensor]:
        return [self.weight, self.bias, *self.xs, *(self.residuals or [])]

    def normalized(self, weight: Tensor, bias: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(self.xs)
        return tuple(
            sync_batch_norm_shards(
                tensors[:count],
                weight=weight,
                bias=bias,
                residuals=tensors[count:] or None,
                masks=self.masks,
                **self.options,
            )
        )


def leaf(tensor: Tensor) -> Tensor:
    return tensor.double().requires_grad_()


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

    def rank_body(rank: int, comm: syncbn.Communicator) -> tuple[Tensor, list[Tensor]]:
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

    def rank_body(rank: int, comm: syncbn.Communicator) -> tuple[Tensor, Tensor]:
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

    def rank_body(rank: int, comm: syncbn.Communicator) -> SyncBatchNorm:
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

    def rank_body(rank: int, comm: syncbn.Communicator) -> Tensor | None:
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
