"""torch.compile where ranks exchange: equal to eager, every exchange there once, and in order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from inspection import Inspector
from thread_ranks import run_ranks
from torch import Tensor
from worlds import World

import syncnorm
from syncnorm.torch import SyncBatchNorm

SUM = ["all_reduce", "wait_tensor"]
FORWARD = ["moments", *SUM, "update_running", "normalize"]
BACKWARD = ["grad_moments", *SUM, "grad_input"]
UNTRACKED = ["moments", *SUM, "normalize"]
ALONE = ["moments", "update_running", "normalize"]
CENTRED = ["moments", *SUM, "center", *SUM, "update_running", "normalize"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
        return World(2, folder, "scenarios_compile", timeout=240)


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("scenario", "forward", "backward"),
    [
        ("one_layer", FORWARD, BACKWARD),
        ("centred_in_a_sub_group", CENTRED, BACKWARD),
        ("neighbours", FORWARD, BACKWARD),
        ("list_of_ranks", FORWARD, BACKWARD),
        ("each_rank_its_own_neighbour", ALONE, ["grad_moments", "grad_input"]),
        ("function_of_a_machine", UNTRACKED, BACKWARD),
        ("no_samples_on_the_first_rank_of_a_mesh", FORWARD, BACKWARD),
        ("only_the_first_rank_needs_gradients", FORWARD, BACKWARD),
        ("two_branches", FORWARD * 2, BACKWARD * 2),
        (
            "more_channels_than_a_frame_holds",
            ["moments", *SUM, *SUM, "update_running", "normalize"],
            ["grad_moments", *SUM, *SUM, "grad_input"],
        ),
    ],
)
def test_every_exchange_is_there_once_and_in_order(
    world: World, scenario: str, forward: list[str], backward: list[str]
) -> None:
    for result in world[scenario]:
        assert_same(result["got"], result["expected"])
        assert result["forward"] == [forward]
        assert result["backward"] == [backward]


def test_no_backward_pass_without_gradients(world: World) -> None:
    for result in world["no_rank_needs_gradients"]:
        assert_same(result["got"], result["expected"])
        assert result["forward"] == [FORWARD]
        assert result["backward"] == []


def test_an_output_that_is_not_used_is_exchanged_for_all_the_same(world: World) -> None:
    for result in world["the_output_is_not_used"]:
        assert_same(result["got"], result["expected"])
        assert [name for name in result["forward"][0] if name in FORWARD] == FORWARD[:-1]


def test_inductor_equals_eager(world: World) -> None:
    for result in world["inductor_two_branches"]:
        assert_same(result["got"], result["expected"])


def test_a_checkpoint_repeats_the_exchange_and_moves_statistics_once(world: World) -> None:
    for result in world["checkpointed"]:
        assert_same(result["got"], result["expected"])
        assert result["forward"] == [FORWARD]
        assert result["backward"] == [["moments", *SUM, "normalize", *BACKWARD]]


def test_a_rank_evaluates_alone(world: World) -> None:
    alone, other = world["evaluation_of_one_rank"]
    assert_same(alone["got"], alone["expected"])
    assert alone["forward"] == [["infer"]]
    assert other is None


def test_distributed_data_parallel(world: World) -> None:
    for result in world["distributed_data_parallel"]:
        assert_same(result["got"], result["expected"])
        assert result["graphs"] > 1  # divided where a bucket ends


def test_ranks_in_different_layers_raise(world: World) -> None:
    for error in world["different_layers"]:
        assert error.startswith("DesyncError: ")


def step_of_thread(
    rank: int, communicator: syncnorm.Communicator, backend: Any
) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """What two layers leave behind, eager and compiled. The second rank needs no gradient."""
    results = []
    for compiled in (False, True):
        layers = [SyncBatchNorm(5, process_group=communicator) for _ in range(2)]

        def branches(
            x: Tensor, z: Tensor, layers: list[SyncBatchNorm] = layers
        ) -> tuple[Tensor, Tensor]:
            return layers[0](x), layers[1](z)

        x = torch.randn(3 + rank, 5, generator=torch.Generator().manual_seed(rank))
        if rank == 0:
            x.requires_grad_()
        else:
            layers = [layer.requires_grad_(False) for layer in layers]
        call = torch.compile(branches, fullgraph=True, backend=backend) if compiled else branches
        first, second = call(x, x.detach().abs())
        (first.sin() * second).sum().backward()
        left = {"x": x.grad, "weight": layers[0].weight.grad, **dict(layers[1].named_buffers())}
        results.append({"first": first.detach(), "second": second.detach(), **left})
    return results[0], results[1]


def test_a_rank_that_is_not_compiled_raises(world: World) -> None:
    for error in world["the_first_rank_is_not_compiled"]:
        assert error.startswith("DesyncError: ")


def test_communicators_of_threads_sum_in_order() -> None:
    torch._dynamo.reset()
    inspector = Inspector()
    results = run_ranks(2, lambda rank, comm: step_of_thread(rank, comm, inspector))
    for expected, got in results:
        assert_same(got, expected)
    assert inspector.forward == [["moments", "all_reduce", "update_running", "normalize"] * 2] * 2
    assert inspector.backward == [["grad_moments", "all_reduce", "grad_input"] * 2] * 2


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own
def test_communicators_of_threads_under_inductor(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    for expected, got in run_ranks(2, lambda rank, comm: step_of_thread(rank, comm, "inductor")):
        assert_same(got, expected)
