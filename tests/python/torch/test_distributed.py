"""Ranks that are processes over torch.distributed, equal to one process on the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import training_runs as runs
from shard_reference import normalize_shards
from torch import Tensor, nn
from worlds import World

from syncnorm import _core

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(scope="module", params=[2, 4])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp(f"world{request.param}")
    return World(request.param, folder, "scenarios_distributed")


def shards(world: World, shape: tuple[int, ...] = (3, 4), first: int = 0) -> list[Tensor]:
    return [shard(first + rank, shape) for rank in range(world.size)]


def shard(rank: int, shape: tuple[int, ...] = (3, 4)) -> Tensor:
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def single_process(
    network: Callable[[torch.dtype], nn.Module],
    shape: tuple[int, ...],
    samples: int,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The same training with torch's own layers on the whole batch."""
    model = network(dtype)
    runs.train(model, runs.batches(shape, samples, dtype))
    return model.state_dict()


def assert_ranks_agree(states: list[dict[str, Tensor]]) -> None:
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0, equal_nan=False)


@pytest.mark.parametrize(
    ("scenario", "sizes"),
    [
        ("linear_equal", runs.EQUAL),
        ("linear_unequal", runs.UNEQUAL),
        ("linear_with_an_empty_rank", runs.WITH_EMPTY),
    ],
)
def test_linear_network_equals_one_process(world: World, scenario: str, sizes: dict) -> None:
    expected = single_process(runs.linear_network, (8,), sum(sizes[world.size]), torch.float32)
    assert_ranks_agree(world[scenario])
    torch.testing.assert_close(world[scenario][0], expected, rtol=1.3e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("scenario", "sizes"),
    [
        ("convolutional_float64", runs.UNEQUAL),
        ("convolutional_float64_channels_last", runs.EQUAL),
    ],
)
def test_convolutional_network_equals_one_process(world: World, scenario: str, sizes: dict) -> None:
    samples = sum(sizes[world.size])
    expected = single_process(runs.convolutional_network, (3, 9, 9), samples, torch.float64)
    assert_ranks_agree(world[scenario])
    torch.testing.assert_close(world[scenario][0], expected, rtol=1e-10, atol=1e-10)


def test_float32_convolutions_differ_no_more_than_those_of_one_process(world: World) -> None:
    samples = sum(runs.UNEQUAL[world.size])
    exact, single = (
        single_process(runs.convolutional_network, (3, 9, 9), samples, dtype)
        for dtype in (torch.float64, torch.float32)
    )
    assert_ranks_agree(world["convolutional_float32"])
    got = world["convolutional_float32"][0]

    def distance(state: dict[str, Tensor]) -> float:
        return max((state[name].double() - exact[name]).abs().max().item() for name in exact)

    assert distance(got) <= 4 * distance(single)


def test_channels_last_in_channels_last_out(world: World) -> None:
    assert world["channels_last_stays"] == [[True, True]] * world.size


def test_statistics_are_the_same_to_the_bit_on_every_rank(world: World) -> None:
    states = world["float32_statistics"]
    assert_ranks_agree(states)
    assert states[0]["num_batches_tracked"].item() == 3
    assert (states[0]["running_var"] != 1).all()


def test_an_empty_group_changes_nothing(world: World) -> None:
    for state, gradient in world["all_ranks_empty"]:
        assert not state["running_mean"].any()
        assert (state["running_var"] == 1).all()
        assert state["num_batches_tracked"].item() == 0
        assert not gradient.any()


def test_evaluation_needs_no_other_rank(world: World) -> None:
    untracked, *others = world["only_the_first_rank_evaluates"]
    assert others == [None] * (world.size - 1)
    torch.testing.assert_close(untracked, normalize_shards([shard(0)]).ys[0], **EXACT)


def test_a_rank_that_needs_no_gradient_joins(world: World) -> None:
    got, *others = world["only_the_first_rank_needs_gradients"]
    assert others == [None] * (world.size - 1)
    leaves = [x.requires_grad_() for x in shards(world)]
    ys = normalize_shards(leaves).ys
    expected = torch.autograd.grad(ys, leaves, shards(world, first=50))
    torch.testing.assert_close(got, expected[0], **EXACT)


def test_ranks_with_different_options_raise(world: World) -> None:
    expected = normalize_shards(shards(world)).ys
    for rank, (error, state, next_call) in enumerate(world["different_options"]):
        assert error.startswith("DesyncError: ")
        assert (state["running_var"] == 1).all()
        assert state["num_batches_tracked"].item() == 0
        torch.testing.assert_close(next_call, expected[rank], **EXACT)


def test_ranks_in_different_backward_passes_raise(world: World) -> None:
    expected = normalize_shards(shards(world)).ys
    for rank, (errors, next_call) in enumerate(world["different_order_of_backward"]):
        assert [error.split(":")[0] for error in errors] == ["DesyncError"] * 2
        torch.testing.assert_close(next_call, expected[rank], **EXACT)


def test_sub_groups_and_copies_in_them(world: World) -> None:
    for rank, (y, copied, running_var) in enumerate(world["pairs"]):
        first = rank - rank % 2
        result = normalize_shards([shard(first), shard(first + 1)])
        torch.testing.assert_close(y, result.ys[rank % 2], **EXACT)
        torch.testing.assert_close(copied, y, rtol=0, atol=0)
        torch.testing.assert_close(running_var, 0.9 + 0.1 * result.var * 6 / 5, **EXACT)


def test_a_rank_outside_its_layer_s_group_raises(world: World) -> None:
    alone, *outside = world["not_a_member"]
    torch.testing.assert_close(alone, normalize_shards([shard(0)]).ys[0], **EXACT)
    for error in outside:
        assert "InvalidArgumentError: process_group: this rank is not in the group" in error


def test_a_group_without_a_backend_for_the_device_is_named(world: World) -> None:
    for error in world["no_backend_for_the_device"]:
        assert "InvalidArgumentError: process_group: its backend" in error
        assert "cannot reduce tensors on cpu" in error


def test_residual_mask_and_activation_over_ranks(world: World) -> None:
    xs, residuals = (
        [x.requires_grad_() for x in shards(world, (2, 4, 5), first)] for first in (0, 20)
    )
    weight, bias = shard(30, (4,)).requires_grad_(), shard(31, (4,)).requires_grad_()
    masks = [shard(40 + rank, (2, 5)) > -0.5 for rank in range(world.size)]
    ys = normalize_shards(
        xs,
        weight,
        bias,
        masks=masks,
        residuals=residuals,
        activation="leaky_relu",
        weighting="equal",
    ).ys
    torch.autograd.backward(ys, shards(world, (2, 4, 5), 50))
    for rank, got in enumerate(world["residual_mask_and_activation"]):
        expected = ys[rank], xs[rank].grad, residuals[rank].grad, weight.grad, bias.grad
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_a_communicator_made_from_a_function(world: World) -> None:
    leaves = [x.requires_grad_() for x in shards(world)]
    ys = normalize_shards(leaves).ys
    gradients = torch.autograd.grad(ys, leaves, shards(world, first=50))
    for rank, got in enumerate(world["callback_communicator_over_torch"]):
        torch.testing.assert_close(got, (ys[rank], gradients[rank]), **EXACT)


@pytest.mark.skipif(_core.capabilities()["cuda_devices"] > 0, reason="there are CUDA devices")
def test_a_communicator_over_nccl_without_a_device_fails_on_every_rank(world: World) -> None:
    first, *others = world["nccl_communicator_without_a_device"]
    if not _core.capabilities()["cuda_built"]:
        kind, _, text = first.partition(": ")
        assert kind == "UnsupportedError"
        assert "CUDA" in text
        expected = f"UnsupportedError: rank 0 could not create the NCCL id: {text}"
        assert others == [expected] * len(others)
    for error in (first, *others):
        assert error.partition(":")[0] in ("UnsupportedError", "CudaError", "NcclError")


def test_ids_of_communicators_over_nccl_stay_in_their_groups(world: World) -> None:
    of_world, of_pairs = zip(*world["nccl_ids_of_world_and_pairs"], strict=True)
    ids = {id for id, _, _ in of_world}
    assert len(ids) == 1
    assert [place for _, place, _ in of_world] == [[r, world.size, r] for r in range(world.size)]
    ids |= {id for id, _, _ in of_pairs}
    assert len(ids) == 1 + world.size // 2
    for rank, (id, place, options) in enumerate(of_pairs):
        assert id == of_pairs[rank ^ 1][0]
        assert place == [rank % 2, 2, rank]
        assert options == {"max_ctas": 2}
