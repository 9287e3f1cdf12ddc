"""Two ranks that follow docs/recipes.md compute what one process computes over the joined batch."""

from __future__ import annotations

import problems
import pytest
import torch
from torch import Tensor
from worlds import World

OF_THE_NETWORK = ["accelerate", "mmengine", "norm_cfg", "detectron2", "ultralytics", "nnunet"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(2, tmp_path_factory.mktemp("recipes"), "scenarios_recipes", timeout=170)


def check_ranks(world: World, scenario: str, expected: dict[str, Tensor]) -> None:
    for state in world[scenario]:
        problems.check(state, expected)


@pytest.mark.parametrize("scenario", [*OF_THE_NETWORK, "deepspeed"])
def test_ranks_are_like_one_process(world: World, scenario: str) -> None:
    check_ranks(world, scenario, problems.one_process())


@pytest.mark.parametrize("scenario", ["timm", "timm_in_place"])
def test_layers_of_timm(world: World, scenario: str) -> None:
    check_ranks(world, scenario, problems.one_process(problems.timm_network()))


def test_norm_of_monai(world: World) -> None:
    from monai.networks.nets import UNet

    torch.manual_seed(3)
    model = UNet(2, 3, 2, channels=(4, 8), strides=(2,), norm="batch")
    expected = problems.one_process(problems.Pooled(model))
    check_ranks(world, "monai", problems.plain(expected))


def test_precise_bn(world: World) -> None:
    from fvcore.nn.precise_bn import update_bn_stats

    model = problems.network()
    update_bn_stats(model, (x for x, _ in problems.loader()), num_iters=problems.STEPS)
    check_ranks(world, "precise_bn", model.state_dict())


def test_stochastic_weight_averaging(world: World) -> None:
    from torch.optim.swa_utils import AveragedModel, update_bn

    averaged = AveragedModel(problems.network())
    averaged.update_parameters(problems.network())
    update_bn(problems.loader(), averaged)
    check_ranks(world, "swa", averaged.module.state_dict())
