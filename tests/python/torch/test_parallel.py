"""DDP, FSDP1, FSDP2 and compiled groups: equal to one process on the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import training_runs as runs
from closeness import assert_rounded
from scenarios_distributed import shard
from scenarios_parallel import IMAGES, SIZES, TwoBranches, accumulate
from shard_reference import normalize_shards, per_channel
from torch import Tensor, nn
from worlds import World

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
FLOAT64 = torch.float64


@pytest.fixture(scope="module")
def world(worlds) -> World:
    return worlds("scenarios_parallel", 2)


def trained(model: nn.Module, shape: Sequence[int]) -> dict[str, Tensor]:
    """By one process on the whole batch, with torch's own layers."""
    runs.train(model, runs.batches(shape, sum(SIZES), FLOAT64))
    return model.state_dict()


def test_ddp_with_a_static_graph(world: World) -> None:
    expected = trained(runs.convolutional_network(FLOAT64), IMAGES)
    for got in world["ddp_static_graph"]:
        torch.testing.assert_close(got, expected, **CLOSE)


def test_ddp_with_accumulated_gradients(world: World) -> None:
    model, data = runs.linear_network(FLOAT64), runs.batches((8,), sum(SIZES), FLOAT64)
    runs.train(model, data[:1])
    accumulate(model, data[1:])
    for got in world["ddp_accumulation"]:
        torch.testing.assert_close(got, [model.state_dict()] * 2, **CLOSE)


def test_ddp_with_unused_parameters(world: World) -> None:
    expected = trained(TwoBranches(), (8,))
    for got in world["ddp_unused_parameters"]:
        torch.testing.assert_close(got, expected, **CLOSE)


def test_ddp_goes_on_where_one_rank_has_no_more_data(world: World) -> None:
    model, data = runs.linear_network(FLOAT64), runs.batches((8,), 6, FLOAT64)
    runs.train(model, data[:3])
    runs.train(model, data[3:])
    for got in world["ddp_with_batches_on_one_rank_only"]:
        torch.testing.assert_close(got, model.state_dict(), **CLOSE)


@pytest.mark.parametrize("scenario", ["fsdp1", "fsdp2"])
def test_fsdp(world: World, scenario: str) -> None:
    expected = trained(runs.convolutional_network(FLOAT64), IMAGES)
    for got in world[scenario]:
        torch.testing.assert_close(got, [expected] * 2, **CLOSE)


def test_the_state_of_a_sharded_model_goes_into_a_plain_one(world: World) -> None:
    for sharded, plain in world["fsdp2_saves_and_loads"]:
        torch.testing.assert_close(sharded, plain, **CLOSE)


@pytest.mark.parametrize(
    ("scenario", "index", "input_dtype", "buffer_dtype"),
    [
        ("fsdp2_mixed_precision", 0, torch.bfloat16, torch.float32),
        ("fsdp2_mixed_precision", 1, torch.float32, torch.float32),
        ("fsdp1_mixed_precision", 0, torch.bfloat16, torch.float32),
        ("fsdp1_mixed_precision", 1, torch.bfloat16, torch.bfloat16),
    ],
    ids=["fsdp2", "fsdp2_input_not_cast", "fsdp1", "fsdp1_short_buffers"],
)
def test_mixed_precision(
    world: World, scenario: str, index: int, input_dtype: torch.dtype, buffer_dtype: torch.dtype
) -> None:
    """Against float64 arithmetic on the rounded numbers."""
    shapes = [(3 + rank, 4, 5) for rank in range(2)]
    xs = [
        shard(rank, shape).float().to(input_dtype).double().requires_grad_()
        for rank, shape in enumerate(shapes)
    ]
    dys = [shard(50 + rank, shape).to(input_dtype).double() for rank, shape in enumerate(shapes)]
    weight, bias = (
        shard(first, (4,)).float().to(torch.bfloat16).double().requires_grad_()
        for first in (30, 31)
    )
    result = normalize_shards(xs, weight, bias)
    torch.autograd.backward(result.ys, dys)
    unbiased = result.var * result.count / (result.count - 1)
    for rank, results in enumerate(world[scenario]):
        got = results[index]
        assert got["y"].dtype == input_dtype
        assert got["running_var"].dtype == got["running_mean"].dtype == buffer_dtype
        assert got["num_batches_tracked"].item() == 1
        assert got["weight"].dtype == got["bias"].dtype == torch.float32
        xhat = (result.ys[rank] - per_channel(bias, xs[rank])) / per_channel(weight, xs[rank])
        terms = (xhat * per_channel(weight, xs[rank])).abs() + per_channel(bias, xs[rank]).abs()
        assert_rounded(got["y"], result.ys[rank], terms)
        assert_rounded(got["dx"].to(input_dtype), xs[rank].grad, xs[rank].grad.abs().max())
        assert_rounded(got["running_mean"], 0.1 * result.mean, 0.1 * result.mean)
        assert_rounded(got["running_var"], 0.9 + 0.1 * unbiased, 0.9 + 0.1 * unbiased)
        # Made in 16 bits on each rank, then averaged in 32.
        for name, exact in (("weight", weight.grad), ("bias", bias.grad)):
            sizes = sum(dy.abs().sum((0, 2)) for dy in dys) * xhat.abs().max()
            assert_rounded(got[name].bfloat16(), exact / 2, sizes / 2)


def test_fsdp1_with_a_wrap_policy_keeps_our_layers_in_float32_as_torch_s(world: World) -> None:
    for caught, seen in world["fsdp1_wraps_layers_by_itself"]:
        assert any("SyncBatchNorm" in text and "precision disabled" in text for text in caught)
        assert seen == [["torch.float32"] * 3] * 10  # two layers, five steps


def test_compiled_over_a_mesh_a_group_found_again_and_for_a_dtensor(world: World) -> None:
    xs = [shard(rank).requires_grad_() for rank in range(2)]
    weight = torch.ones(4, dtype=FLOAT64, requires_grad=True)
    result = normalize_shards(xs, weight)
    torch.autograd.backward(result.ys, [shard(50), shard(51)])
    whole = [
        torch.cat(result.ys),
        torch.cat([x.grad for x in xs]),
        weight.grad,
        0.9 + 0.1 * result.var * 6 / 5,
    ]
    for rank, (ys, of_dtensor) in enumerate(world["compiled"]):
        torch.testing.assert_close(ys, [result.ys[rank]] * 2, **CLOSE)
        torch.testing.assert_close(of_dtensor, whole, **CLOSE)
