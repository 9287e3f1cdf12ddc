"""What PyTorch's own suites check of nn.SyncBatchNorm, asked of this one, over gloo on the CPU.

Written anew after the checks named here, in which "DDP" stands for DistributedDataParallel. Where
torch's check asks that nothing is NaN or fails, this one also asks for the numbers of one process.

torch/testing/_internal/distributed/distributed_test.py:
  test_DDP_SyncBatchNorm                          network, saved_and_loaded
  test_DDP_SyncBatchNorm_No_Affine                no_affine
  test_DDP_SyncBatchNorm_2D_Input                 two_dimensional_input
  test_DDP_SyncBatchNorm_Single_Input_Per_Process single_input_per_process
  test_DDP_SyncBatchNorm_Diff_Input_Sizes_Running_Value  running_values_of_different_input_sizes
  test_DDP_SyncBatchNorm_Diff_Input_Sizes_gradient       different_input_sizes
  test_DDP_SyncBatchNorm_Channels_Last            channels_last, channels_last_3d
  test_DDP_SyncBatchNorm_half                     half
  test_SyncBatchNorm_process_group                group_of_nested_layers
  test_ddp_inference                              inference_on_one_rank
  test_ddp_sync_bn_training_vs_eval               training_then_evaluation
  test_ddp_uneven_inputs_stop_iteration_sync_bn   uneven_inputs_with_join
test/distributed/test_c10d_common.py:
  test_sync_batch_norm_only_empty_input           empty_batches
  test_sync_batch_norm_empty_input                empty_batches_between_other_layers
test/test_nn.py:
  test_convert_sync_batchnorm                     test_conversion_keeps_the_state
  test_sync_batchnorm_backward_elemt              memory_formats_of_input_and_gradient
  test_sync_batchnorm_accuracy_cuda               mean_of_many_channels

Beyond them: momentum_none, and one_value_in_the_whole_group, which torch refuses. Left out:
test_sync_bn_logged, which asks whether DDP sees an nn.SyncBatchNorm. This layer is none, because
DDP refuses that one on the CPU.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from closeness import assert_rounded
from scenarios_torch_suite import empty_on, wide
from torch import Tensor, nn
from torch_suite_trainings import TRAININGS, Training, numbers
from training_runs import part
from worlds import World

from syncnorm.torch import SyncBatchNorm1d, convert_sync_batchnorm

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(scope="module", params=[2, 4])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp(f"torch_suite{request.param}")
    return World(request.param, folder, "scenarios_torch_suite")


def assert_trained_as_one_process(results: list[Any], training: Training) -> None:
    ranks = len(results)
    alone = training.new()
    expected = training.run(alone, ranks)
    for rank, (steps, state) in enumerate(results):
        mine = part(training.sizes(ranks), rank)
        for got, whole in zip(steps, expected, strict=True):
            torch.testing.assert_close(got["y"], whole["y"][mine], **EXACT)
            torch.testing.assert_close(got["dx"], whole["dx"][mine], **EXACT)
            torch.testing.assert_close(got["gradients"], whole["gradients"], **EXACT)
        torch.testing.assert_close(state, alone.state_dict(), **EXACT)
        torch.testing.assert_close(state, results[0][1], rtol=0, atol=0)


@pytest.mark.parametrize("name", TRAININGS)
def test_training_equals_one_process(world: World, name: str) -> None:
    assert_trained_as_one_process(world[name], TRAININGS[name])


def test_a_parallel_model_that_was_saved_and_loaded(world: World) -> None:
    assert_trained_as_one_process(world["saved_and_loaded"], TRAININGS["network"])


def test_half(world: World) -> None:
    ranks = range(world.size)
    layer = nn.BatchNorm1d(2).double()
    x = torch.cat([numbers(rank, 3, 2, 5).half() for rank in ranks]).double().requires_grad_()
    dy = torch.cat([numbers(50 + rank, 3, 2, 5).half() for rank in ranks]).double()
    y = layer(x)
    y.backward(dy)
    for rank, (dtypes, *got) in enumerate(world["half"]):
        assert set(dtypes) == {torch.float16}
        mine = slice(3 * rank, 3 * rank + 3)
        terms = dy[mine] * y[mine]  # of the gradient of weight
        of_weight, of_bias = terms.sum((0, 2)), dy[mine].sum((0, 2))
        for result, exact, added in (
            (got[0], y[mine], y[mine]),
            (got[1], x.grad[mine], dy[mine].abs() + 1),
            (got[2], of_weight, of_weight),
            (got[3], of_bias, of_bias),
        ):
            assert result.dtype == torch.float16
            assert_rounded(result, exact, added, k=2)


def test_running_values_of_different_input_sizes(world: World) -> None:
    values = torch.cat([wide(rank).transpose(0, 1).flatten(1) for rank in range(world.size)], dim=1)
    for state in world["running_values_of_different_input_sizes"]:
        torch.testing.assert_close(state["running_mean"], values.mean(1), **EXACT)
        torch.testing.assert_close(state["running_var"], values.var(1), **EXACT)


def test_nested_layers_get_the_group(world: World) -> None:
    assert world["group_of_nested_layers"] == [True] * world.size


def test_empty_batches(world: World) -> None:
    cases = list(itertools.product((True, False), (False, True)))
    for number, (requires_grad, everywhere) in enumerate(cases):
        layer = nn.BatchNorm2d(2).double()
        xs = [empty_on(everywhere or rank == 0, rank, 2, 5, 4) for rank in range(world.size)]
        xs = [x.requires_grad_(requires_grad) for x in xs]
        ys = [layer(torch.cat(xs))] if not everywhere else xs
        # As DistributedDataParallel has it: divided by the number of ranks.
        loss = sum(y.square().sum() for y in ys) / world.size
        if not everywhere:
            loss.backward()
        zero = [torch.zeros(2, dtype=torch.float64)] * 2
        gradients = zero if everywhere else [p.grad for p in layer.parameters()]
        expected_ys = ys[0].split([len(x) for x in xs]) if not everywhere else xs
        for rank, results in enumerate(world["empty_batches"]):
            y, dx, got, state = results[number]
            torch.testing.assert_close(y, expected_ys[rank].detach(), **EXACT)
            torch.testing.assert_close(got, gradients, **EXACT)
            torch.testing.assert_close(state["0.running_var"], layer.running_var, **EXACT)
            if requires_grad and not everywhere:
                torch.testing.assert_close(dx / world.size, xs[rank].grad, **EXACT)
            else:
                assert dx is None or dx.numel() == 0


def test_empty_batches_between_other_layers(world: World) -> None:
    torch.manual_seed(8)
    network = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Linear(6, 2)).double()
    whole = torch.cat([empty_on(rank == 0, rank, 2, 8, 8) for rank in range(world.size)])
    (network(whole).square().sum() / world.size).backward()
    expected = [parameter.grad for parameter in network.parameters()]
    for first_empty, all_empty in world["empty_batches_between_other_layers"]:
        torch.testing.assert_close(first_empty, expected, **EXACT)
        assert not any(gradient.any() for gradient in all_empty)


def test_one_value_in_the_whole_group(world: World) -> None:
    first, *others = world["one_value_in_the_whole_group"]
    torch.testing.assert_close(first[0], torch.zeros(1, 3, dtype=torch.float64), rtol=0, atol=0)
    for y, running_var in (first, *others):
        assert y.shape[1] == 3
        expected = torch.full((3,), 0.9, dtype=torch.float64)  # the variance of one value is 0
        torch.testing.assert_close(running_var, expected, **EXACT)


def test_inference_on_one_rank(world: World) -> None:
    first, *others = world["inference_on_one_rank"]
    assert others == [None] * (world.size - 1)
    x = numbers(9, 6, 2, 4, 4)
    for tracked, outputs in zip((True, False), first, strict=True):
        expected = nn.BatchNorm2d(2, track_running_stats=tracked).double().eval()(x)
        for y in outputs:
            torch.testing.assert_close(y, expected.detach(), **EXACT)


def test_training_then_evaluation(world: World) -> None:
    layer = nn.BatchNorm2d(2, momentum=0.99).double()
    layer(torch.cat([numbers(rank, 5, 2, 4, 4) for rank in range(world.size)]))
    x = numbers(0, 5, 2, 4, 4).requires_grad_()
    y = layer.eval()(x)
    y.square().sum().backward()
    names = [names for names, _ in world["training_then_evaluation"]]
    # Forward with centring, as float64 has it, and backward.
    assert names == [["allreduce_"] * 3] * world.size
    collectives, *got = world["training_then_evaluation"][0][1]
    assert collectives == []
    expected = [y.detach(), x.grad, layer.weight.grad, layer.bias.grad]
    torch.testing.assert_close(got, expected, **EXACT)


def test_uneven_inputs_with_join(world: World) -> None:
    model = TRAININGS["network"].new()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(5):
        optimizer.zero_grad()
        x = torch.cat([numbers(10 * step + rank, 4, 2) for rank in range(world.size)])
        (model(x).square().sum() / world.size).backward()
        optimizer.step()
    for rank, (error, steps, state) in enumerate(world["uneven_inputs_with_join"]):
        expected = (
            "Detected at least one rank that exhausted inputs"
            if rank == 0
            else f"Rank {rank} exhausted all inputs"
        )
        assert error.startswith(f"RuntimeError: {expected}")
        assert steps == 5
        torch.testing.assert_close(state, model.state_dict(), **EXACT)


def test_conversion_keeps_the_state() -> None:
    module = nn.Sequential(nn.BatchNorm1d(100), nn.InstanceNorm1d(100))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    converted = convert_sync_batchnorm(module)
    assert [type(child) for child in converted] == [SyncBatchNorm1d, nn.InstanceNorm1d]
    torch.testing.assert_close(dict(converted.state_dict()), before, rtol=0, atol=0)


def test_memory_formats_of_input_and_gradient(world: World) -> None:
    results = world["memory_formats_of_input_and_gradient"]
    expected = {shape: reference(world.size, shape) for shape, *_ in results[0]}
    for rank, of_rank in enumerate(results):
        for (shape, *_), (y, dx, of_weight, kept) in of_rank.items():
            assert kept
            torch.testing.assert_close((y, dx, of_weight), expected[shape][rank], **EXACT)


def reference(ranks: int, shape: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    """Output and gradients of input and weight, of each rank's part."""
    norm = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm3d
    x = torch.cat([numbers(rank, *shape) for rank in range(ranks)]).requires_grad_()
    dy = torch.cat([numbers(50 + rank, *shape) for rank in range(ranks)])
    y = norm(shape[1]).double()(x)
    y.backward(dy)
    sums = (dy * y.detach()).movedim(1, 0).unflatten(1, (ranks, -1)).flatten(2).sum(2)
    parts = zip(y.detach().chunk(ranks), x.grad.chunk(ranks), sums.unbind(1), strict=True)
    return list(parts)


def test_mean_of_many_channels(world: World) -> None:
    for means in world["mean_of_many_channels"]:
        for number, shape in enumerate([(1, 96, 20, 20), (1, 96, 8, 7, 6)]):
            xs = [numbers(rank, *shape).float().double() for rank in range(world.size)]
            exact = torch.cat(xs).transpose(0, 1).flatten(1).mean(1)
            for mean in means[2 * number : 2 * number + 2]:
                assert_rounded(mean, exact, torch.ones(96), k=2)
