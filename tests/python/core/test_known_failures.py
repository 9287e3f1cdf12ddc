"""What is known to go wrong in other synchronized batch norms: each is a test here."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from reference import backward, forward
from support import driver
from support.buffers import Buffer
from support.cases import Case, ShardData, Vector, simple_case
from support.compare import check_training
from support.driver import assert_same_bits, make_ranks, run_one_call, run_phases
from support.dtypes import quantize


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("channels", [65, 96, 192, 768])
@pytest.mark.parametrize("spatial", [(7, 7), (3,), ()], ids=str)
def test_channels_last_beyond_powers_of_two(channels: int, spatial, dtype: str) -> None:
    case = simple_case(dtype, (3, 2), channels, spatial, layout="last", residual=True)
    check_training(case, run_phases(case))


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_sums_of_300_by_300(dtype: str, layout: str) -> None:
    """90000 gradients of 1 and of 2: sums beyond 65504, the end of float16."""
    generator = np.random.default_rng(0)
    x = quantize(generator.standard_normal((1, 2, 300, 300)), dtype)
    dy = np.broadcast_to(np.array([1.0, 2.0]).reshape(1, 2, 1, 1), x.shape).copy()
    case = Case(dtype, 2, [ShardData(x, dy)], layout)
    (rank,) = run_phases(case)
    assert rank.out["grad_wire"].values[2:4].tolist() == [90_000, 180_000]
    assert rank.out["dbias"].values.tolist() == [90_000, 180_000]
    check_training(case, [rank])


def test_tiny_variance_beside_eps() -> None:
    """var 1e-10 with eps 1e-5: the variance travels itself, not as 1/sqrt(var + eps)."""
    generator = np.random.default_rng(0)
    shards = []
    for n in (64, 32):
        x = quantize(1e-5 * generator.standard_normal((n, 3, 5)), "float32")
        shards.append(ShardData(x, np.ones_like(x)))
    options = {"momentum": 1.0, "variance_factor": "biased"}
    running = [Vector(np.zeros(3), "float32"), Vector(np.ones(3), "float32")]
    case = Case("float32", 3, shards, "first", None, None, *running, None, options)
    expected = np.concatenate([s.x for s in shards]).transpose(1, 0, 2).reshape(3, -1).var(axis=1)
    for rank in run_phases(case):
        # A few float32 roundings; other systems are off by 2e-2 here.
        np.testing.assert_allclose(rank.out["running_var"].values, expected, rtol=8 * 2**-24)


def with_synthetic_peer(case: Case, count: float, mean: float, square: float) -> driver.Rank:
    """Rank 0 of `case` in a group of two; the other rank is only a wire of `count` values."""
    rank = make_ranks(case)[0]
    rank.size = 2
    driver.moments(rank)
    wire = rank.out["wire"].values
    c = case.channels
    other = np.concatenate([[count, count], wire[2:4], [count * mean] * c, [count * square] * c])
    rank.out["total"] = Buffer.of(wire + other, "float64")
    driver.normalize(rank)
    return rank


@pytest.mark.parametrize("count", [2.0**24, 2.0**33, 2.0**52 - 12])
def test_counts_beyond_2_to_the_24(count: float) -> None:
    """c_d = 1/n and n/(n-1) from a count that float32 cannot hold: one more is one more."""
    case = simple_case("float32", (3,), 2, (4,), momentum=1.0, centering="off")
    rank = with_synthetic_peer(case, count, mean=0.0, square=1.0)
    assert rank.out["total"].values[1] == count + 12
    assert rank.out["saved"].values[0] == 1 / (count + 12)
    np.testing.assert_allclose(rank.out["running_var"].values, 1, rtol=1e-6)


def test_the_bessel_factor_of_a_large_count() -> None:
    """In float64 n/(n-1) at n = 2^25 differs from 1 by 2^-25, which float32 counts would lose."""
    case = simple_case("float64", (4,), 1, (1,), momentum=1.0, centering="off")
    case = dataclasses.replace(case, shards=[ShardData(np.ones((4, 1, 1)), np.ones((4, 1, 1)))])
    n = 2.0**25
    rank = with_synthetic_peer(case, n - 4, mean=1.0, square=2.0)
    biased = (n - 4) / n
    assert rank.out["running_var"].values[0] == pytest.approx(biased * n / (n - 1), rel=1e-15)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_group_with_one_value(dtype: str) -> None:
    """n = 1: y = bias, dx = 0 but for rounding; finite statistics, on an empty rank as well."""
    case = simple_case(dtype, (0, 1), 4, ())
    ranks = run_phases(case)
    check_training(case, ranks)
    np.testing.assert_array_equal(ranks[1].out["y"].values[0], quantize(case.bias.values, dtype))
    for rank, name in itertools.product(ranks, ("running_mean", "running_var")):
        assert np.isfinite(rank.out[name].values).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_input_without_running_statistics(dtype: str) -> None:
    case = simple_case(dtype, (3, 2))
    case = dataclasses.replace(case, running_mean=None, running_var=None, batches=None)
    check_training(case, run_phases(case))


def test_float64_input_with_float32_buffers_and_parameters() -> None:
    case = simple_case("float64", (3, 2))
    vectors = {
        name: Vector(quantize(getattr(case, name).values, "float32"), "float32")
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    case = dataclasses.replace(case, **vectors)
    ranks = run_phases(case)
    check_training(case, ranks)
    assert ranks[0].out["dweight"].dtype == "float32"


SMALL = ("float16", "bfloat16", "float32")


@pytest.mark.parametrize("data", SMALL)
@pytest.mark.parametrize("dtypes", list(itertools.product(SMALL, repeat=2)), ids="-".join)
def test_mixed_parameter_dtypes(data: str, dtypes: tuple[str, str]) -> None:
    case = simple_case(data, (3, 2), activation="relu")
    pairs = zip(("weight", "bias", "running_mean", "running_var"), dtypes * 2, strict=True)
    vectors = {
        name: Vector(quantize(getattr(case, name).values, dtype), dtype) for name, dtype in pairs
    }
    case = dataclasses.replace(case, **vectors)
    check_training(case, run_phases(case))


def test_variance_never_negative_at_a_huge_mean() -> None:
    """E[x^2] - E[x]^2 of equal values at 1e6 must not go below 0 and into a NaN."""
    x = np.full((64, 3, 7), 1e6) * np.array([1.0, -1.0, 0.1]).reshape(1, 3, 1)
    shards = [ShardData(quantize(x[:n], "float32"), np.ones_like(x[:n])) for n in (64, 17)]
    for centering in ("on", "off"):
        case = Case("float32", 3, shards, given={"centering": centering, "eps": 1e-5})
        for rank in run_phases(case):
            assert np.isfinite(rank.out["y"].values).all()
            assert np.isfinite(rank.out["dx"].values).all()


@pytest.mark.parametrize("weighting", ["count", "equal", "batch"])
def test_backward_belongs_to_its_own_forward(weighting: str) -> None:
    """Three frameworks pair one weighting's forward with another's backward: dx would differ."""
    case = simple_case("float64", (4, 1, 2), weighting=weighting, masked="some")
    shards, weight = case.reference_shards, case.weight.values
    statistics = forward(case.policy, shards, weight, case.bias.values)
    right = backward(case.policy, statistics, shards, case.gradients, weight)
    for other in {"count", "equal", "batch"} - {weighting}:
        policy = dataclasses.replace(case.policy, weighting=other)
        coefficients = forward(policy, shards).coefficients
        mixed = dataclasses.replace(statistics, coefficients=coefficients)
        wrong = backward(case.policy, mixed, shards, case.gradients, weight)
        assert max(np.abs(a - b).max() for a, b in zip(right.dx, wrong.dx, strict=True)) > 1e-3
    check_training(case, run_phases(case))


@pytest.mark.parametrize("layout", ["first", "last"])
def test_outputs_may_lie_in_their_inputs_buffers(layout: str) -> None:
    """y in residual's memory, dx in dy's: the same bits as in buffers of their own."""
    case = simple_case(batches=(3, 2), channels=65, residual=True, activation="relu", layout=layout)
    expected, ranks = run_phases(case), make_ranks(case)
    for rank in ranks:
        rank.check_inputs = False
        rank.out["y"] = rank.given["residual"]
    driver.forward_phases(ranks)
    for rank in ranks:
        driver.add_gradients(case, rank)
        driver.grad_moments(case, rank)
    driver.sum_over_ranks(ranks, "grad_wire", "grad_total")
    for rank in ranks:
        rank.out["dx"] = rank.given["dy"]
        driver.grad_input(case, rank)
    assert_same_bits(expected, ranks)


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("spatial", [(1,), (1, 1), (), (5,)], ids=str)
def test_empty_and_one_by_one_shapes(layout: str, spatial: tuple[int, ...]) -> None:
    """Layouts that the strides cannot tell apart, with a rank that has nothing."""
    for channels, batches in itertools.product((1, 4), ((0, 2), (2, 0, 1), (1, 3))):
        case = simple_case("float32", batches, channels, spatial, layout=layout)
        ranks = run_phases(case)
        check_training(case, ranks)
        assert_same_bits(ranks, run_one_call(case))


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 0, 0), (2, 3, 0), (2, 0)], ids=str)
def test_shapes_without_values(shape: tuple[int, ...]) -> None:
    """No channels or no positions: accepted, and nothing to write."""
    n, c, *spatial = shape
    case = simple_case("float32", (n, n), c, spatial)
    ranks = run_phases(case)
    old = make_ranks(case)
    assert ranks[0].out["running_mean"].bits == old[0].out["running_mean"].bits
    assert_same_bits(ranks, run_one_call(case))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_the_gradient_at_exactly_zero(activation: str) -> None:
    """A value of 0 before the activation is on the negative side, as in other frameworks."""
    x = np.array([[[-1.0, 0.0, 1.0]]])
    case = Case("float32", 1, [ShardData(x, np.ones_like(x))], given={"activation": activation})
    (rank,) = run_phases(case)
    side = 0.0 if activation == "relu" else np.float32(0.01)
    expected = np.array([side, side, 1.0])
    np.testing.assert_allclose(rank.out["dbias"].values, expected.sum(), rtol=1e-7)
    check_training(case, [rank])


def test_a_reference_that_would_be_wrong_is_told_apart() -> None:
    """Guards the comparisons of this folder: a shift by one part in 10^4 must be seen."""
    case = simple_case(batches=(3, 2))
    ranks = run_phases(case)
    ranks[0].out["dx"].storage[...] *= np.float32(1.0001)
    with pytest.raises(AssertionError, match="dx of rank 0"):
        check_training(case, ranks)
