"""Inputs whose sums are exactly representable: the results are compared to the bit."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from reference import backward, forward, update_running
from support.cases import Case, ShardData, Vector, flat, simple_case
from support.driver import Rank, assert_same_bits, run_one_call, run_phases
from support.dtypes import FLOATS, quantize

CHANNELS = (1, 3, 7, 64, 65, 96, 100, 130)
SPATIAL = ((), (4, 4), (8, 64))
LARGE = 512  # positions from which one odd number of channels has to do


def exact_case(dtype: str, layout: str, channels: int, spatial: tuple[int, ...]) -> Case:
    """Values mean - 2 and mean + 2 in equal number: var is 4, invstd 1/2 with eps 0, xhat is +-1.

    Four ranks with 8, 4, 2 and 2 samples: every count is a power of two, every quotient exact.
    """
    generator = np.random.default_rng(channels)
    shards = []
    mean = generator.integers(-4, 5, (1, channels, *[1] * len(spatial))) * 1.0
    for n in (8, 4, 2, 2):
        half = np.ones((n // 2, channels, *spatial))
        sign = generator.permuted(np.concatenate([half, -half]), axis=0)
        dy = generator.integers(-2, 3, sign.shape) * 1.0
        shards.append(ShardData(x=mean + 2 * sign, dy=dy))
    parameter = "float64" if dtype == "float64" else "float32"
    weight = Vector(generator.choice([-2.0, 0.5, 1.0, 4.0], channels), parameter)
    bias = Vector(generator.integers(-3, 4, channels) * 1.0, parameter)
    running = [Vector(np.zeros(channels), parameter), Vector(np.ones(channels), parameter)]
    options = {"eps": 0.0, "momentum": 0.5, "variance_factor": "biased"}
    return Case(dtype, channels, shards, layout, weight, bias, *running, 0, options)


def assert_bits(rank: Rank, name: str, expected: np.ndarray, what: str = "") -> None:
    buffer = rank.out[name]
    values = np.asarray(expected).reshape(buffer.shape).astype(np.float64)
    wrong = buffer.values != quantize(values, buffer.dtype)  # 0 and -0 are equal
    assert not wrong.any(), f"{name} {what}: {wrong.sum()} of {wrong.size} values are not exact"


@pytest.mark.parametrize("centering", ["on", "off"])
@pytest.mark.parametrize("weighting", ["count", "batch"])
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_result_is_exact(dtype, layout, spatial, weighting, centering) -> None:
    for channels in CHANNELS if math.prod(spatial) < LARGE else (33,):
        case = exact_case(dtype, layout, channels, spatial)
        case.given.update(weighting=weighting, centering=centering)
        check_exact(case, run_phases(case), f"C={channels}")


def check_exact(case: Case, ranks: list[Rank], what: str) -> None:
    weight, bias = case.weight.values, case.bias.values
    result = forward(case.policy, case.reference_shards, weight, bias)
    gradients = backward(case.policy, result, case.reference_shards, case.gradients, weight)
    assert (result.invstd == 0.5).all(), "the case is not what it claims to be"
    zeros, ones = case.running_mean.values, case.running_var.values
    for d, rank in enumerate(ranks):
        mean, var, _ = update_running(case.policy, result, d, zeros, ones)
        assert_bits(rank, "y", as_storage(rank, result.y[d]), what)
        assert_bits(rank, "dx", as_storage(rank, gradients.dx[d]), what)
        assert_bits(rank, "dweight", gradients.dweight[d], what)
        assert_bits(rank, "dbias", gradients.dbias[d], what)
        assert_bits(rank, "running_mean", mean, what)
        assert_bits(rank, "running_var", var, what)
        hash_of_pass = rank.out["saved"].values[1:2]
        saved = [[result.coefficients[d]], hash_of_pass, result.mean, result.invstd, result.gate]
        assert_bits(rank, "saved", np.concatenate(saved), what)


def as_storage(rank: Rank, values: np.ndarray) -> np.ndarray:
    """values (N, C, S) in the shape of x."""
    return np.asarray(values).reshape(rank.given["x"].shape)


@pytest.mark.parametrize("weighting", ["count", "equal", "batch"])
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_wires_are_exact(dtype: str, layout: str, weighting: str) -> None:
    """Small integers, with and without a mask that keeps a power of two of them."""
    generator = np.random.default_rng(5)
    for channels, masked in ((3, False), (65, True), (100, False)):
        shards = []
        for n in (4, 8):
            x = generator.integers(-8, 9, (n, channels, 2, 16)) * 1.0
            half = generator.permuted(np.tile([1, 0], (n, 16)), axis=1).reshape(n, 2, 16)
            mask = half.astype(np.uint8) if masked else None
            shards.append(ShardData(x=x, dy=np.zeros_like(x), mask=mask))
        case = Case(dtype, channels, shards, layout, given={"weighting": weighting})
        for rank, shard in zip(run_phases(case), case.reference_shards, strict=True):
            wire = rank.out["wire"].values
            n, samples = shard.count(), len(shard.x)
            share = {"count": n, "equal": 1, "batch": samples}[weighting]
            kept = flat(shard.x) * shard.counted().astype(float)
            assert wire[:2].tolist() == [share, n]
            assert wire[3] == wire[2] ** 2 > 0
            np.testing.assert_array_equal(wire[4 : 4 + channels], share * kept.sum((0, 2)) / n)
            np.testing.assert_array_equal(wire[4 + channels :], share * (kept**2).sum((0, 2)) / n)


@pytest.mark.parametrize("dtype", FLOATS)
def test_exact_case_in_one_call(dtype: str) -> None:
    case = exact_case(dtype, "first", 7, (4, 4))
    assert_same_bits(run_phases(case), run_one_call(case))


def test_a_wrong_bit_is_noticed() -> None:
    """assert_bits must see the smallest change."""
    ranks = run_phases(exact_case("float32", "first", 3, (4, 4)))
    y = ranks[0].out["y"].values
    y[0, 0, 0, 0] = np.nextafter(np.float32(y[0, 0, 0, 0]), np.float32(np.inf))
    with pytest.raises(AssertionError):
        assert_bits(ranks[0], "y", y)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6])
def test_centring_makes_the_variance_independent_of_the_mean(dtype: str, ratio: float) -> None:
    """Shifting integers by an integer that the dtype holds exactly changes no bit of y or dx."""
    shift = {"float16": 1000.0, "bfloat16": 120.0}.get(dtype, ratio)
    case = simple_case(dtype, (4, 2, 2), 5, (4,), centering="on")
    generator = np.random.default_rng(1)
    integers = [generator.integers(-3, 4, s.x.shape) * 1.0 for s in case.shards]
    results = []
    for offset in (0.0, shift):
        shards = [
            dataclasses.replace(s, x=x + offset) for s, x in zip(case.shards, integers, strict=True)
        ]
        results.append(run_phases(dataclasses.replace(case, shards=shards)))
    assert_same_bits(*results, names=["y", "dx", "dweight", "dbias", "running_var"])
