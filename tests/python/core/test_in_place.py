"""In place: y over x, and a backward pass that starts from y."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import syncnorm
from support import driver
from support.cases import Case, Vector, simple_case
from support.driver import Rank, assert_same_bits, make_ranks, run_frozen, run_one_call, run_phases
from support.dtypes import FLOATS, UNIT, quantize
from support.refusals import arguments, assert_refused, invoke
from syncnorm import _core

INVERTIBLE = ("identity", "leaky_relu", "elu")
LEAST = 2.0**-12


def in_place_case(dtype: str = "float32", batches=(3, 1, 2), **options: Any) -> Case:
    case = simple_case(dtype, batches, in_place=True, **options)
    return dataclasses.replace(case, overwrite=True)


def with_weight(case: Case, values: Any) -> Case:
    weight = Vector(np.broadcast_to(values, case.channels).astype(float), case.weight.dtype)
    return dataclasses.replace(case, weight=weight)


def loss(case: Case) -> float:
    """Sum of y*dy over all ranks: what the backward pass differentiates."""
    ranks = make_ranks(case)
    driver.forward_phases(ranks)
    return sum((r.out["y"].values * s.dy).sum() for r, s in zip(ranks, case.shards, strict=True))


def numeric_gradient(function: Callable[[np.ndarray], float], values: np.ndarray) -> np.ndarray:
    step = np.cbrt(np.finfo(float).eps)
    gradient = np.zeros(values.shape)
    for index in np.ndindex(values.shape):
        higher, lower = values.copy(), values.copy()
        higher[index] += step
        lower[index] -= step
        gradient[index] = (function(higher) - function(lower)) / (2 * step)
    return gradient


@pytest.mark.parametrize("masked", ["none", "some"])
@pytest.mark.parametrize("weighting", ["count", "equal"])
@pytest.mark.parametrize("activation", INVERTIBLE)
def test_gradients_by_finite_differences(activation: str, weighting: str, masked: str) -> None:
    options = {"activation": activation, "weighting": weighting, "masked": masked}
    case = in_place_case("float64", (2, 1), channels=2, spatial=(3,), eps=0.1, **options)
    ranks = run_phases(case)

    def at_x(d: int, x: np.ndarray) -> float:
        shards = [*case.shards]
        shards[d] = dataclasses.replace(shards[d], x=x)
        return loss(dataclasses.replace(case, shards=shards))

    def at(name: str, values: np.ndarray) -> float:
        return loss(dataclasses.replace(case, **{name: Vector(values, "float64")}))

    # A step of eps^(1/3) leaves eps^(2/3) times third derivatives, here below 1e3.
    bound = 1e3 * np.finfo(float).eps ** (2 / 3)
    for d, (rank, shard) in enumerate(zip(ranks, case.shards, strict=True)):
        numeric = numeric_gradient(lambda x, d=d: at_x(d, x), shard.x)
        np.testing.assert_allclose(rank.out["dx"].values, numeric, rtol=bound, atol=bound)
    for name in ("weight", "bias"):
        numeric = numeric_gradient(lambda v, n=name: at(n, v), getattr(case, name).values)
        actual = sum(rank.out[f"d{name}"].values for rank in ranks)
        np.testing.assert_allclose(actual, numeric, rtol=bound, atol=bound)


@pytest.mark.parametrize("run", [run_phases, run_one_call, run_frozen])
@pytest.mark.parametrize("activation", INVERTIBLE)
@pytest.mark.parametrize("layout", ["first", "last"])
def test_over_x_has_the_bits_of_beside_x(run: Callable, activation: str, layout: str) -> None:
    over = in_place_case(activation=activation, layout=layout, masked="some")
    beside = dataclasses.replace(over, overwrite=False)
    assert_same_bits(run(over), run(beside))


@pytest.mark.parametrize("weight", [0.0, -0.0, 1e-30, -1e-30, LEAST / 2, -LEAST / 2])
def test_a_small_weight_is_applied_as_the_least_with_its_sign(weight: float) -> None:
    applied = -LEAST if weight < 0 else LEAST
    case = in_place_case("float64", activation="leaky_relu")
    small, least = (run_phases(with_weight(case, w)) for w in (weight, applied))
    assert_same_bits(small, least)
    plain = dataclasses.replace(with_weight(case, applied), overwrite=False)
    plain = dataclasses.replace(plain, given={"activation": "leaky_relu"})
    for one, other in zip(small, run_phases(plain), strict=True):
        np.testing.assert_array_equal(one.out["y"].values, other.out["y"].values)
        # dweight passes: it is that of the applied weight, from an xhat recovered through it.
        actual, expected = one.out["dweight"].values, other.out["dweight"].values
        np.testing.assert_allclose(actual, expected, atol=1e3 * UNIT["float64"] / LEAST)


@pytest.mark.parametrize("weight", [1.0, -0.25, 2.0**-6])
@pytest.mark.parametrize("dtype", FLOATS)
def test_xhat_is_recovered_as_closely_as_is_promised(dtype: str, weight: float) -> None:
    """One value per channel and dy = 1: then dweight is xhat. Documented: u*(|xhat| + |b/w|)."""
    channels = 1000
    case = simple_case(dtype, (1,), channels, (), in_place=True, eps=0.0)
    x = case.shards[0].x
    ones, vector = np.ones(channels), case.weight.dtype
    case = dataclasses.replace(
        with_weight(case, weight),
        shards=[dataclasses.replace(case.shards[0], dy=np.ones_like(x))],
        running_mean=Vector(0 * ones, vector),
        running_var=Vector(ones, vector),
    )
    (rank,) = run_frozen(case)
    error = np.abs(rank.out["dweight"].values - x[0])
    promised = UNIT[dtype] * (np.abs(x[0]) + np.abs(case.bias.values / weight))
    arithmetic = UNIT[case.arithmetic] * (np.abs(x[0]) + np.abs(case.bias.values / weight))
    assert (error <= promised + 4 * arithmetic).all()
    assert (error > promised / 100).any(), "nothing was rounded: the case shows nothing"


@pytest.mark.parametrize("dtype", FLOATS)
def test_elu_that_is_rounded_to_minus_one_has_no_gradient_and_spoils_none(dtype: str) -> None:
    """Its inverse there is -infinity; a finite one is taken."""
    case = in_place_case(dtype, (4, 4), activation="elu")
    bias = Vector(quantize(np.full(case.channels, -50.0), case.bias.dtype), case.bias.dtype)
    for rank in run_phases(dataclasses.replace(case, bias=bias)):
        assert (rank.out["y"].values == -1).all()
        for name in ("dx", "dweight", "dbias"):
            assert (rank.out[name].values == 0).all(), name
    for rank in run_phases(with_weight(case, 64.0)):
        saturated = rank.out["y"].values == -1
        assert saturated.any()
        assert not saturated.all()
        assert all(np.isfinite(rank.out[n].values).all() for n in ("dx", "dweight", "dbias"))


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_taken_for_the_inverse_of_minus_one(dtype: str) -> None:
    """The logarithm of half the distance to the next value. One value of y is -1; its xhat shows in
    its dx = -weight*invstd*c*(Sb + xhat*Sg)."""
    case = in_place_case(dtype, (4,), channels=1, spatial=(8,), activation="elu", eps=0.0)
    sign = np.where(np.arange(32).reshape(4, 1, 8) % 2 == 0, 1.0, -1.0)
    x, dy = 100 * sign, sign.copy()
    x[0, 0, 1] = -1000
    shard = dataclasses.replace(case.shards[0], x=x, dy=dy)
    bias = Vector(np.array([8.0]), case.bias.dtype)
    case = dataclasses.replace(with_weight(case, 12.0), shards=[shard], bias=bias)
    (rank,) = run_phases(case)
    assert np.argwhere(rank.out["y"].values == -1).tolist() == [[0, 0, 1]]
    factor, _, _, invstd, _ = rank.out["saved"].values
    sum_bias, sum_weight = rank.out["grad_wire"].values[2:]
    pull = -rank.out["dx"].values[0, 0, 1] / (12 * invstd * factor)
    xhat = (pull - sum_bias) / sum_weight
    expected = (np.log(UNIT[dtype] / 2) - 8) / 12
    bound = 4 * UNIT[dtype] * (np.abs(expected) + np.abs(sum_bias / sum_weight))
    assert np.abs(xhat - expected) <= bound
    assert bound < np.log(2) / 12, "half or twice the distance would pass"


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"negative_slope": 0.0}])
def test_what_cannot_be_inverted_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"in_place is 1"):
        _core.Options(in_place=True, **{"activation": "leaky_relu"} | options)


@pytest.fixture(name="rank")
def rank_with_a_residual() -> Rank:
    (rank,) = run_phases(simple_case(batches=(3,), residual=True, activation="elu", centering="on"))
    return rank


IN_PLACE = _core.Options(activation="elu", centering="on", in_place=True)


@pytest.mark.parametrize("function", ["normalize", "forward", "infer"])
def test_a_residual_is_refused(function: str, rank: Rank) -> None:
    names = "residual is given and options.in_place is 1"
    assert_refused(function, rank, syncnorm.InvalidArgumentError, names, options=IN_PLACE)


@pytest.mark.parametrize("function", ["grad_input", "backward", "infer_backward"])
def test_the_gradient_of_a_residual_is_refused(function: str, rank: Rank) -> None:
    names = "dresidual is given and options.in_place is 1"
    replaced = {"options": IN_PLACE, "y": None}
    assert_refused(function, rank, syncnorm.InvalidArgumentError, names, **replaced)
    if function != "grad_input":  # whose wires in `rank` are of other options
        invoke(function, arguments(function, rank) | replaced | {"dresidual": None})


@pytest.mark.parametrize("function", ["grad_moments", "grad_input", "backward", "infer_backward"])
def test_y_beside_the_output_is_refused(function: str, rank: Rank) -> None:
    replaced = {"options": IN_PLACE}
    if function != "grad_moments":
        replaced["dresidual"] = None
    names = "y is given and options.in_place is 1"
    assert_refused(function, rank, syncnorm.InvalidArgumentError, names, **replaced)
