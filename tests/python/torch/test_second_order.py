"""Second derivatives: by finite differences, rank by rank in threads, and over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from closeness import assert_rounded
from layouts import laid_out
from scenarios_second_order import critic, penalized, shard
from shard_problems import VARIANTS, Problem, leaf
from shard_reference import activate, normalize_shards, per_channel
from thread_ranks import run_ranks
from torch import Tensor
from worlds import World

import syncnorm
from syncnorm.torch import SyncBatchNorm, sync_batch_norm, sync_batch_norm_shards
from syncnorm.torch.groups.process_group import Group

EXACT = {"rtol": 1e-11, "atol": 1e-11}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(2, tmp_path_factory.mktemp("world"), "scenarios_second_order")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("count", "weighting"), [(1, "count"), (2, "batch"), (3, "count"), (3, "equal")]
)
def test_of_shards_by_finite_differences(count: int, weighting: str, variant: str) -> None:
    problem = Problem(count, weighting=weighting, **VARIANTS[variant])
    dys = [dy.requires_grad_() for dy in problem.dys]
    assert torch.autograd.gradgradcheck(problem.normalized, problem.leaves(), dys)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "elu"])
def test_of_a_layer_by_finite_differences(
    activation: str, affine: bool, training: bool, layout: str
) -> None:
    layer = SyncBatchNorm(3, affine=affine, activation=activation, dtype=torch.float64)
    layer(torch.randn(6, 3, dtype=torch.float64))
    layer.train(training)
    x, residual = (laid_out(leaf(torch.randn(3, 3, 2)), layout) for _ in range(2))

    def normalize(x: Tensor, residual: Tensor, *_: Tensor) -> Tensor:
        return layer(x, residual)

    assert torch.autograd.gradgradcheck(normalize, (x, residual, *layer.parameters()))


def loss_of(gradients: Sequence[Tensor]) -> Tensor:
    """Every gradient enters in its own way."""
    return torch.stack([k * g.pow(2).sum() for k, g in enumerate(gradients, 1)]).sum()


def reported(parts: Sequence[Tensor], reduction: str) -> Sequence[Tensor]:
    total = torch.stack(list(parts)).sum(0)
    same = {"sum": total, "mean": total / len(parts)}
    return parts if reduction == "local" else [same[reduction]] * len(parts)


def reference(problem: Problem, reduction: str) -> list[Sequence[Tensor]]:
    """By xs, weights and dys: the derivatives of loss_of all ranks' gradients, in torch operations.

    Every rank has parameters of its own, so that it can be told what each reports.
    """
    options = dict(problem.options)
    after = {
        name: options.pop(name) for name in ("activation", "negative_slope") if name in options
    }
    xs, residuals = problem.xs, problem.residuals or []
    weights, biases = ([leaf(p.detach()) for _ in xs] for p in (problem.weight, problem.bias))
    ys = []
    for index, xhat in enumerate(normalize_shards(xs, masks=problem.masks, **options).ys):
        z = xhat * per_channel(weights[index], xhat) + per_channel(biases[index], xhat)
        ys.append(activate(z + residuals[index] if residuals else z, **after))
    gradients = torch.autograd.grad(
        ys, [*xs, *weights, *biases, *residuals], problem.dys, create_graph=True
    )
    count = len(xs)
    columns = [gradients[first : first + count] for first in range(0, len(gradients), count)]
    columns[1:3] = [reported(parts, reduction) for parts in columns[1:3]]
    loss = torch.stack([loss_of(of_rank) for of_rank in zip(*columns, strict=True)]).sum()
    second = torch.autograd.grad(loss, [*xs, *weights, *problem.dys])
    by_x, by_weight, by_dy = second[:count], second[count : 2 * count], second[2 * count :]
    return [by_x, reported(by_weight, reduction), by_dy]


@pytest.mark.parametrize("reduction", ["local", "sum", "mean"])
@pytest.mark.parametrize("weighting", ["count", "equal"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_of_thread_ranks(variant: str, weighting: str, reduction: str) -> None:
    problem = Problem(3, weighting=weighting, **VARIANTS[variant])
    dys = [dy.requires_grad_() for dy in problem.dys]

    def rank_body(rank: int, comm: syncnorm.Communicator) -> Sequence[Tensor]:
        given = [problem.xs[rank], problem.weight, problem.bias, dys[rank]]
        x, weight, bias, dy = (leaf(tensor.detach().clone()) for tensor in given)
        residual = leaf(problem.residuals[rank].detach()) if problem.residuals else None
        y = sync_batch_norm(
            x,
            weight=weight,
            bias=bias,
            training=True,
            residual=residual,
            mask=problem.masks[rank] if problem.masks else None,
            process_group=comm,
            grad_reduction=reduction,
            **problem.options,
        )
        inputs = [x, weight, bias, *([] if residual is None else [residual])]
        gradients = torch.autograd.grad(y, inputs, dy, create_graph=True)
        return torch.autograd.grad(loss_of(gradients), [x, weight, dy])

    by_rank = zip(*reference(problem, reduction), strict=True)
    for got, expected in zip(run_ranks(3, rank_body), by_rank, strict=True):
        torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ["identity", "leaky_relu"])
def test_is_rounded_once_in_lower_precision(dtype: torch.dtype, activation: str) -> None:
    x, dy, residual = torch.randn(3, 8, 4, 6).to(dtype).unbind()
    x = x + 100
    u = torch.randn(8, 4, 6).to(dtype)
    weight = torch.rand(4) + 0.5

    def second(function: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        x, dy, residual, weight = leaves
        y = function(x, weight, residual)
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        return torch.autograd.grad(dx, [x, dy, weight], u.to(dx.dtype))

    def layer(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return sync_batch_norm(
            x, weight=weight, training=True, residual=residual, activation=activation
        )

    def exact(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return normalize_shards([x], weight, residuals=[residual], activation=activation).ys[0]

    got = second(layer, x, dy, residual, weight)
    expected = second(exact, *(t.double() for t in (x, dy, residual, weight)))
    for ours, right in zip(got, expected, strict=True):
        assert_rounded(ours, right, right.abs().max().expand_as(right))


def test_gradient_penalty_over_processes_equals_one_process(world: World) -> None:
    model = critic()
    x = torch.cat([shard(rank) for rank in range(2)]).requires_grad_()
    penalized(model, x).backward()
    afterwards = model(torch.cat([shard(rank, seed=1) for rank in range(2)]))
    by_rank, outputs = zip(*world["gradient_penalty"], strict=True)
    xs, *parameters = zip(*by_rank, strict=True)
    torch.testing.assert_close(torch.cat(xs), x.grad, **EXACT)
    for parts, parameter in zip(parameters, model.parameters(), strict=True):
        torch.testing.assert_close(sum(parts), parameter.grad, **EXACT)
    torch.testing.assert_close(torch.cat(outputs), afterwards, **EXACT)


def test_ranks_need_gradients_of_different_inputs(world: World) -> None:
    xs, residuals, dys = ([shard(rank, seed) for rank in range(2)] for seed in range(3))
    needed = [xs[0].requires_grad_(), residuals[1].requires_grad_()]
    ys = normalize_shards(xs, residuals=residuals, activation="leaky_relu").ys
    gradients = torch.autograd.grad(ys, needed, dys, create_graph=True)
    loss = torch.stack([gradient.pow(3).sum() for gradient in gradients]).sum()
    (expected,) = torch.autograd.grad(loss, needed[0])
    got, nothing = world["the_first_rank_s_x_and_the_others_residual"]
    torch.testing.assert_close(got, expected, **EXACT)
    assert nothing is None


def test_ranks_in_second_derivatives_of_different_layers_raise(world: World) -> None:
    expected = normalize_shards([shard(rank) for rank in range(2)]).ys
    for rank, (error, next_call) in enumerate(world["second_derivatives_of_different_layers"]):
        assert error.startswith("DesyncError: ")
        torch.testing.assert_close(next_call, expected[rank], **EXACT)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_first_derivatives_have_the_same_bits_with_create_graph(
    training: bool, with_residual: bool
) -> None:
    layer = SyncBatchNorm(3, activation="relu").train(training)
    x, residual = torch.randn(2, 4, 3).requires_grad_().unbind()
    inputs = [x, layer.weight, layer.bias, *([residual] if with_residual else [])]
    loss = layer(x, residual if with_residual else None).pow(3).sum()
    expected = torch.autograd.grad(loss, inputs, retain_graph=True)
    gradients = torch.autograd.grad(loss, inputs, create_graph=True)
    torch.testing.assert_close(gradients, expected, rtol=0, atol=0)


def test_only_some_gradients_are_used() -> None:
    """What a loss does not depend on counts as zero, for each gradient and for each shard."""
    problem = Problem(3, masked=True)
    leaves = problem.leaves()
    affine = problem.weight, problem.bias
    for first in range(len(leaves)):
        seconds = []
        right = normalize_shards(problem.xs, *affine, masks=problem.masks).ys
        for ys in (problem.normalized(*leaves), right):
            loss = torch.stack([y.pow(3).sum() for y in ys]).sum()
            gradients = torch.autograd.grad(loss, leaves, create_graph=True)
            seconds.append(torch.autograd.grad(gradients[first].pow(2).sum(), leaves))
        torch.testing.assert_close(*seconds, **EXACT)


def test_the_residual_may_be_the_input_and_gradients_may_be_expanded() -> None:
    layer = SyncBatchNorm(3, dtype=torch.float64)
    x = leaf(torch.randn(4, 3))

    def slope(x: Tensor) -> Tensor:
        loss = layer(x, x).pow(3).sum()
        return torch.autograd.grad(loss, x, create_graph=True)[0].sum()

    assert torch.autograd.gradcheck(slope, x)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_takes_one_more_sum(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def counted(group: Group, wires: list[Tensor]) -> list[Tensor]:
        lengths.append([len(wire) for wire in wires])
        return all_reduce(group, wires)

    all_reduce = Group.all_reduce
    monkeypatch.setattr(Group, "all_reduce", counted)
    problem = Problem(2, centering="off", **VARIANTS[variant])
    gradients = torch.autograd.grad(
        problem.normalized(*problem.leaves()), problem.leaves(), problem.dys, create_graph=True
    )
    assert lengths == [[10, 10], [8, 8]]
    loss_of(gradients).backward()
    # The slope of elu depends on y, whose gradient goes through the layer as any other.
    through_y = [[8, 8]] if variant.startswith("elu") else []
    assert lengths[2:] == [[23, 23], *through_y]


def test_of_frozen_layers_no_rank_waits_for_another() -> None:
    def rank_body(rank: int, comm: syncnorm.Communicator) -> Tensor | None:
        layer = SyncBatchNorm(3, process_group=comm).eval()
        if rank == 1:
            return None
        x = torch.randn(4, 3, requires_grad=True)
        (dx,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(dx.pow(2).sum(), x)[0]

    second, _ = run_ranks(2, rank_body)
    assert second is not None


@pytest.mark.parametrize("of_shards", [True, False])
def test_third_derivatives_are_refused(of_shards: bool) -> None:
    x = torch.randn(4, 3, requires_grad=True)
    y = sync_batch_norm_shards([x])[0] if of_shards else SyncBatchNorm(3)(x)
    (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
    with pytest.raises(syncnorm.UnsupportedError, match=r"third derivative.*create_graph"):
        second.sum().backward()
