"""Models of other people: converted, trained on two ranks, reverted and exported.

The ranks' batches are of unequal size, and all is in float64, where the result of the ranks and
that of one process with the original layers differ by rounding only: sums over the batch are taken
in another order. How much a model magnifies that is known by experiment: one process that sees the
samples of each batch in another order differs from itself in the same way.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from real_models import MODELS, RealModel, others_may_warn, train
from scenarios_models import types_of
from torch import Tensor, nn
from worlds import World

from syncnorm.torch import convert_sync_batchnorm, revert_sync_batchnorm

State = dict[str, Tensor]

# Each step passes a rounding (1e-16 of a value) through up to 49 normalizations and back, and five
# steps build upon each other. What was seen is 1e-14.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(2, tmp_path_factory.mktemp("models"), "scenarios_models")


@pytest.fixture(scope="module", params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def real(name: str) -> RealModel:
    return MODELS[name]


@pytest.fixture(scope="module")
def ranks(world: World, name: str) -> list[dict[str, Any]]:
    return world[name]


@pytest.fixture(scope="module")
def one_process(real: RealModel) -> nn.Module:
    """Trained with the original layers on the whole batches."""
    model = real.new()
    train(model, real.batches())
    return model


def distance(state: State, other: State) -> float:
    return max((state[key] - other[key]).abs().max().item() for key in other)


def test_every_normalization_is_converted(real: RealModel, ranks: list[dict[str, Any]]) -> None:
    kinds = (nn.BatchNorm2d, nn.BatchNorm3d)
    expected = sum(isinstance(module, kinds) for module in real.new().modules())
    assert expected > 0
    assert [rank["layers"] for rank in ranks] == [expected] * 2


def test_two_ranks_train_as_one_process(
    one_process: nn.Module, ranks: list[dict[str, Any]]
) -> None:
    first, second = (rank["trained"] for rank in ranks)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(first, dict(one_process.state_dict()), **CLOSE)


def test_no_further_from_it_than_one_process_with_the_samples_in_another_order(
    real: RealModel, one_process: nn.Module, ranks: list[dict[str, Any]]
) -> None:
    other = real.new()
    train(other, [(x.flip(0), target.flip(0)) for x, target in real.batches()])
    expected = dict(one_process.state_dict())
    rounding = torch.finfo(torch.float64).eps
    allowed = 10 * (distance(other.state_dict(), expected) + rounding)
    assert distance(ranks[0]["trained"], expected) <= allowed


def test_training_changed_what_has_an_effect(real: RealModel, ranks: list[dict[str, Any]]) -> None:
    """So that the comparisons above compare something."""
    before = real.new().state_dict()
    kept = {key for key in before if torch.equal(ranks[0]["trained"][key], before[key])}
    # A bias in front of a normalization has no effect, and so no gradient.
    assert {key for key in kept if not key.endswith("conv.bias")} == set()


def test_the_reverted_model_is_the_original(
    real: RealModel, one_process: nn.Module, ranks: list[dict[str, Any]]
) -> None:
    original = real.new()
    expected = one_process.eval()(real.batches()[0][0])
    for rank in ranks:
        assert rank["reverted types"] == types_of(original)
        assert list(rank["reverted state"]) == list(original.state_dict())
        torch.testing.assert_close(rank["reverted state"], rank["trained"], rtol=0, atol=0)
        torch.testing.assert_close(rank["reverted"], rank["synchronized"], **CLOSE)
        torch.testing.assert_close(rank["reverted"], expected, **CLOSE)


def test_the_reverted_model_is_exported(real: RealModel, ranks: list[dict[str, Any]]) -> None:
    model = revert_sync_batchnorm(convert_sync_batchnorm(real.new())).eval()
    model.load_state_dict(ranks[0]["trained"])
    x = real.batches()[0][0]
    with others_may_warn():
        exported = torch.export.export(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), model(x), rtol=0, atol=0)
        torch.testing.assert_close(exported.module()(x), ranks[0]["reverted"], **CLOSE)
