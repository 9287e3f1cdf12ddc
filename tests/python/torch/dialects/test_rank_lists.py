"""Lists of ranks as groups: over processes, and in one without torch.distributed."""

from __future__ import annotations

from collections.abc import Sequence

import mmcv_formulas as formulas
import numpy as np
import pytest
import torch
from scenarios_distributed import shard
from scenarios_rank_lists import all_but, crossed, pair
from shard_reference import normalize_shards
from torch import Tensor
from worlds import World

from support.scenarios import error_of
from syncnorm.torch import SyncBatchNorm, mmcv

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(name="world", scope="module")
def world_of_four(worlds) -> World:
    return worlds("scenarios_of_four", 4)


def normalized(rank: int, ranks: Sequence[int]) -> Tensor:
    """What rank gets where these ranks are the group."""
    return normalize_shards([shard(r) for r in ranks]).ys[ranks.index(rank)]


def step_of(rank: int, momentum: float = 0.1) -> list[Tensor]:
    """A step of training over the rank's pair, with shards of the ranks' own sizes."""
    ranks = pair(rank)
    xs = [shard(r, (r + 2, 4)).requires_grad_() for r in ranks]
    weights, biases = (
        [torch.full((4,), value, dtype=torch.float64, requires_grad=True) for _ in ranks]
        for value in (1.0, 0.0)
    )
    result = normalize_shards(xs)
    ys = [y * w + b for y, w, b in zip(result.ys, weights, biases, strict=True)]
    torch.autograd.backward(ys, [shard(10 + r, (r + 2, 4)) for r in ranks])
    mine = ranks.index(rank)
    unbiased = result.var * result.count / (result.count - 1)
    running = [momentum * result.mean, 1 - momentum + momentum * unbiased]
    gradients = [xs[mine].grad, weights[mine].grad, biases[mine].grad]
    return [each.detach() for each in (ys[mine], *gradients, *running)]


def test_numbers_of_a_step(world: World) -> None:
    for rank, got in enumerate(world["list_of_two"]):
        torch.testing.assert_close(got, step_of(rank), **EXACT)


def test_a_list_for_the_function(world: World) -> None:
    for rank, got in enumerate(world["function_over_a_list"]):
        torch.testing.assert_close(got, normalized(rank, crossed(rank)), **EXACT)


def test_ranks_that_are_in_unlike_numbers_of_groups(world: World) -> None:
    for rank, got in enumerate(world["list_where_ranks_have_unlike_numbers_of_groups"]):
        torch.testing.assert_close(got, normalized(rank, all_but(3, rank)), **EXACT)


def test_all_ranks_are_the_default_group(world: World) -> None:
    for rank, got in enumerate(world["all_ranks_in_any_order"]):
        torch.testing.assert_close(got, normalized(rank, [0, 1, 2, 3]), **EXACT)


def test_one_list_is_one_group(world: World) -> None:
    assert world["one_list_is_one_group"] == [[True] * 3] * 4


def test_a_group_that_is_there_already_is_taken(world: World) -> None:
    for rank, got in enumerate(world["group_that_is_there_already"]):
        torch.testing.assert_close(got, normalized(rank, [[0, 3], [1, 2]][rank in (1, 2)]), **EXACT)


def test_a_destroyed_group_is_made_again(world: World) -> None:
    for rank, got in enumerate(world["list_again_after_its_group_was_destroyed"]):
        torch.testing.assert_close(got, [normalized(rank, all_but(2, rank))] * 2, **EXACT)


def test_a_list_of_this_rank_only(world: World) -> None:
    for rank, got in enumerate(world["list_of_one"]):
        torch.testing.assert_close(got, normalized(rank, [rank]), **EXACT)


def test_a_rank_that_is_not_in_the_list_raises(world: World) -> None:
    *inside, third, fourth = world["list_of_other_ranks"]
    for rank, got in enumerate(inside):
        torch.testing.assert_close(got, normalized(rank, [0, 1]), **EXACT)
    for rank, error in [(2, third), (3, fourth)]:
        assert error == (
            f"InvalidArgumentError: process_group: got the ranks [1, 0] on rank {rank}, expected on"
            " every rank a list that contains it"
        )


def test_what_are_no_different_ranks_is_refused(world: World) -> None:
    for rank, (twice, beyond, negative, empty, *no_ranks) in enumerate(world["refused_lists"]):
        start = "InvalidArgumentError: process_group: got the ranks"
        expected = "expected different ranks from 0 to 3"
        for error, ranks in [(twice, [0, 1, 0]), (beyond, [rank, 4]), (negative, [-1, rank])]:
            assert error == f"{start} {ranks}, {expected}"
        assert empty.startswith(f"{start} [] on rank {rank}")
        for error, ranks in zip(no_ranks, ([str(rank)], [0.0, 1.0], [None]), strict=True):
            assert error == (
                f"ArgumentTypeError: process_group: got {ranks}, expected a list of ranks, which"
                " are ints"
            )


def test_mmcv_over_a_list(world: World) -> None:
    for rank, (steps, sizes) in enumerate(world["mmcv_over_a_list"]):
        ranks = pair(rank)
        mine = ranks.index(rank)
        xs = [shard(r, (r + 2, 4)).numpy() for r in ranks]
        dys = [shard(10 + r, (r + 2, 4)).numpy() for r in ranks]
        for got, mode in zip(steps, ("default", "N"), strict=True):
            result = formulas.forward(xs, stats_mode=mode)
            back = formulas.backward(result, dys)
            running = formulas.running(result, mine, 0.1, np.zeros(4), np.ones(4))
            exact = [result.ys[mine], back.dxs[mine], back.dweight, back.dbias, *running]
            torch.testing.assert_close(got, [torch.tensor(e) for e in exact], **EXACT)
        assert sizes == [2, 4]


def test_mmcv_without_tracking_evaluates_over_a_list(world: World) -> None:
    for rank, got in enumerate(world["mmcv_evaluates_without_tracking"]):
        torch.testing.assert_close(got, normalized(rank, pair(rank)), **EXACT)


def test_megengine_over_a_list(world: World) -> None:
    for rank, (step, called) in enumerate(world["megengine_over_a_list"]):
        y, dx, *gradients, mean, var = step_of(rank)
        torch.testing.assert_close(step, [y, dx, *gradients, mean, var], **EXACT)
        torch.testing.assert_close(called, [y, mean, var], **EXACT)


def test_copies_and_pickles_of_a_list(world: World) -> None:
    for rank, got in enumerate(world["copies_of_a_list"]):
        torch.testing.assert_close(got, [normalized(rank, crossed(rank))] * 4, **EXACT)


def test_without_torch_distributed_there_is_rank_0_only() -> None:
    for kind, argument in [(SyncBatchNorm, "process_group"), (mmcv.SyncBatchNorm, "group")]:
        options = {"affine": False, "dtype": torch.float64}
        layer = kind(4, **{argument: [0]}, **options)
        torch.testing.assert_close(layer(shard(0)), normalized(0, [0]), **EXACT)
        assert layer.process_group is None
        for ranks in ([1], [0, 1]):
            refused = kind(4, **{argument: ranks}, **options)
            error = error_of(lambda layer=refused: layer(shard(0)))
            expected = f"InvalidArgumentError: process_group: got the ranks {ranks}, expected d"
            assert error.startswith(expected)
            assert error.endswith("call init_process_group first")
            assert refused.eval()(shard(0)).shape == (3, 4)
