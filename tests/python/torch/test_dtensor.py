"""DTensors that are sharded on the batch dimension, equal to the whole tensor in one process."""

from __future__ import annotations

import pytest
import torch
import training_runs as runs
from scenarios_distributed import shard
from scenarios_dtensor import SAMPLES, whole
from shard_reference import normalize_shards, per_channel
from torch import Tensor, nn
from worlds import World

EXACT = {"rtol": 1e-11, "atol": 1e-11}
SHARDED, REPLICATED, PARTIAL = "(Shard(dim=0),)", "(Replicate(),)", "(Partial(sum),)"


@pytest.fixture(name="world", scope="module")
def world_of_four(worlds) -> World:
    return worlds("scenarios_of_four", 4)


def reference(samples: int = 7, divisor: int = 1) -> dict[str, Tensor]:
    """What one step makes of the whole tensor; divisor: of the parameters' gradients."""
    x = whole(0, samples).requires_grad_()
    weight, bias = shard(30, (4,)).requires_grad_(), shard(31, (4,)).requires_grad_()
    result = normalize_shards([x], weight, bias)
    result.ys[0].backward(whole(50, samples))
    return {
        "y": result.ys[0].detach(),
        "dx": x.grad,
        "weight": weight.grad / divisor,
        "bias": bias.grad / divisor,
        "running_mean": 0.1 * result.mean.detach(),
        "running_var": 0.9 + 0.1 * result.var.detach() * result.count / (result.count - 1),
        "num_batches_tracked": torch.tensor(1),
    }


def titles(data: str, gradient: str, buffers: str) -> dict[str, str]:
    return {
        **dict.fromkeys(("y", "dx"), data),
        **dict.fromkeys(("weight", "bias"), gradient),
        **dict.fromkeys(("running_mean", "running_var", "num_batches_tracked"), buffers),
    }


@pytest.mark.parametrize("index", range(len(SAMPLES)), ids=[f"{n}_samples" for n in SAMPLES])
def test_sharded_on_the_batch(world: World, index: int) -> None:
    for results in world["sharded_on_the_batch"]:
        got, placements = results[index]
        torch.testing.assert_close(got, reference(SAMPLES[index]), **EXACT)
        assert placements == titles(SHARDED, PARTIAL, REPLICATED)


def test_plain_parameters_get_the_gradient_of_their_rank_s_part(world: World) -> None:
    ranks, expected = world["plain_parameters"], reference()
    for name in ("weight", "bias"):
        gradients = torch.stack([got.pop(name) for got in ranks])
        torch.testing.assert_close(gradients.sum(0), expected.pop(name), **EXACT)
    for got in ranks:
        torch.testing.assert_close(got, expected, **EXACT)


def test_gradients_that_are_summed_by_the_layer_are_replicated(world: World) -> None:
    for results in world["sums_of_gradients"]:
        for (got, placements), divisor in zip(results, (1, 4), strict=True):
            torch.testing.assert_close(got, reference(divisor=divisor), **EXACT)
            assert placements == titles(SHARDED, REPLICATED, REPLICATED)


def test_mesh_of_two_dimensions(world: World) -> None:
    for results in world["square_mesh"]:
        for got, placements in results:
            torch.testing.assert_close(got, reference(), **EXACT)
            gradient = placements["y"].replace("Shard(dim=0)", "Partial(sum)")
            assert placements == titles(placements["y"], gradient, "(Replicate(), Replicate())")
        assert [placements["dx"] for _, placements in results] == [
            "(Shard(dim=0), Shard(dim=0))",
            "(Shard(dim=0), Replicate())",
            "(Replicate(), Shard(dim=0))",
            "(Replicate(), Replicate())",
        ]


def test_channels_last(world: World) -> None:
    weight, bias = shard(30, (4,)), shard(31, (4,))
    expected = normalize_shards([shard(0, (7, 4, 3, 3))], weight, bias).ys[0]
    for got in world["channels_last"]:
        torch.testing.assert_close(got, expected, check_stride=False, **EXACT)


def test_residual_mask_and_activation(world: World) -> None:
    x, residual = whole(0).requires_grad_(), whole(20).requires_grad_()
    weight, bias = shard(30, (4,)).requires_grad_(), shard(31, (4,)).requires_grad_()
    y = normalize_shards(
        [x],
        weight,
        bias,
        residuals=[residual],
        masks=[shard(40, (7, 3)) > -0.5],
        activation="leaky_relu",
    ).ys[0]
    y.backward(whole(50))
    for got in world["residual_mask_and_activation"]:
        expected = [y.detach(), x.grad, residual.grad, weight.grad, bias.grad]
        torch.testing.assert_close(got, expected, **EXACT)


def test_evaluation_with_running_statistics(world: World) -> None:
    x = whole(0).requires_grad_()
    weight, bias = shard(30, (4,)).requires_grad_(), shard(31, (4,)).requires_grad_()
    scale = per_channel(weight, x) / (1 + 1e-5) ** 0.5
    y = (x - per_channel(shard(32, (4,)), x)) * scale + per_channel(bias, x)
    y.backward(whole(50))
    expected = {
        "y": y.detach(),
        "dx": x.grad,
        "weight": weight.grad,
        "bias": bias.grad,
        "running_mean": shard(32, (4,)),
        "running_var": torch.ones(4, dtype=torch.float64),
        "num_batches_tracked": torch.tensor(0),
    }
    for (got, placements), _ in world["evaluation"]:
        torch.testing.assert_close(got, expected, **EXACT)
        assert placements == titles(SHARDED, PARTIAL, REPLICATED)


def test_evaluation_without_running_statistics_is_that_of_the_whole_tensor(world: World) -> None:
    expected = {name: reference()[name] for name in ("y", "dx", "weight", "bias")}
    for _, (got, _) in world["evaluation"]:
        torch.testing.assert_close(got, expected, **EXACT)


def test_training_of_a_network_equals_one_process(world: World) -> None:
    model = runs.linear_network(torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for x, target in runs.batches((8,), 10, torch.float64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    for got in world["training_of_a_network"]:
        torch.testing.assert_close(got, model.state_dict(), rtol=1e-9, atol=1e-9)


def test_tensors_that_are_on_their_way_are_waited_for(world: World) -> None:
    expected = reference(8)
    for got in world["tensors_that_are_on_their_way"]:
        torch.testing.assert_close(got, [expected["y"], expected["dx"]], **EXACT)


def test_the_function_takes_a_dtensor(world: World) -> None:
    for got in world["functional"]:
        torch.testing.assert_close(got, normalize_shards([whole(0)]).ys[0], **EXACT)


def test_a_group_that_is_given_must_be_that_of_the_shards(world: World) -> None:
    for rank, (fitting, errors) in enumerate(world["groups_that_are_given"]):
        torch.testing.assert_close(fitting, normalize_shards([whole(0)]).ys[0], **EXACT)
        _, of_world, of_communicator = errors
        expected = [rank % 2, rank % 2 + 2]
        for error in errors:
            assert error.startswith("InvalidArgumentError: process_group: got a group of")
            on = f"the shards of the DTensor input are on the ranks {expected}"
            assert f"{on}; expected these, or None" in error
        assert "the ranks [0, 1, 2, 3]" in of_world
        assert "of 4 ranks" in of_communicator


def test_two_dimensions_without_a_group_are_named(world: World) -> None:
    for error in world["no_group_of_two_dimensions"]:
        sharded = "got shards over mesh dimension 'batch' and mesh dimension 'other'"
        assert error.startswith(f"InvalidArgumentError: input: {sharded}")
        assert "has no group of their ranks, [0, 1, 2, 3]; create it on every rank" in error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("channels", "input: got Shard(dim=1) on mesh dimension 'batch', expected Shard(0) or"),
        ("partial", "input: got Partial(sum) on mesh dimension 'batch', expected Shard(0) or"),
        ("plain input", "input: got a plain tensor, while the parameters or running statistics"),
        ("plain input in evaluation", "input: got a plain tensor, while the parameters or"),
        ("other mesh", "weight: got a DTensor on DeviceMesh((batch=2, other=2)"),
        ("sharded weight", "weight: got a DTensor placed as (Shard(dim=0),), expected (Repli"),
        ("plain residual", "residual: got a plain tensor, expected a DTensor as the input is one"),
        ("replicated residual", "residual: got a DTensor placed as (Replicate(),), expected (Shar"),
        ("plain mask", "mask: got a plain tensor, expected a DTensor as the input is one"),
    ],
)
def test_refusals(world: World, call: str, message: str) -> None:
    for errors in world["refusals"]:
        assert errors[call].startswith(f"InvalidArgumentError: {message}")


def test_ranks_outside_the_mesh(world: World) -> None:
    *inside, first_outside, second_outside = world["rank_outside_the_mesh"]
    for got in inside:
        torch.testing.assert_close(got, normalize_shards([whole(0)]).ys[0], **EXACT)
    for error in (first_outside, second_outside):
        assert error.startswith("InvalidArgumentError: input: this rank is not in its mesh")
