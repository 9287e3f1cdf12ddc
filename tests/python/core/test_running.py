"""Running statistics: factors, averages, and when they stay as they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reference import forward, update_running
from support import driver
from support.cases import Case, Vector, simple_case
from support.compare import check_training
from support.driver import Rank, make_ranks, run_one_call, run_phases
from syncnorm import _core

FACTORS = ("unbiased", "biased", "unbiased_local", "unbiased_rank")
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def batch_statistics(
    factor: str, batches: tuple[int, ...], spatial=(1,)
) -> tuple[Case, list[Rank]]:
    """With momentum 1 the running statistics are the batch's, times the factor."""
    case = simple_case("float64", batches, 3, spatial, variance_factor=factor, momentum=1.0)
    return case, run_phases(case)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("batches", [(3, 2), (1, 4), (0, 5), (7,)])
def test_factors(factor: str, batches: tuple[int, ...]) -> None:
    case, ranks = batch_statistics(factor, batches)
    values = np.concatenate([s.x for s in case.shards]).transpose(1, 0, 2).reshape(3, -1)
    n, ranks_in_group = sum(batches), len(batches)
    for rank, n_d in zip(ranks, batches, strict=True):
        count = {
            "unbiased": n,
            "biased": 0,
            "unbiased_local": n_d * ranks_in_group,
            "unbiased_rank": n_d,
        }[factor]
        scale = count / (count - 1) if count > 1 else 1
        expected = values.var(axis=1) * scale
        np.testing.assert_allclose(rank.out["running_var"].values, expected, rtol=1e-14)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("batches", [(1,), (1, 0), (0, 1, 0)])
def test_one_value_in_the_whole_group(factor: str, batches: tuple[int, ...]) -> None:
    """n = 1: var is 0 and the factor 1, nothing becomes infinite."""
    _, ranks = batch_statistics(factor, batches)
    for rank in ranks:
        assert rank.out["running_var"].values.tolist() == [0, 0, 0]
        assert np.isfinite(rank.out["running_mean"].values).all()
        assert np.isfinite(rank.out["y"].values).all()
        assert np.isfinite(rank.out["dx"].values).all()


@pytest.mark.parametrize("run", [run_phases, run_one_call], ids=["phases", "one call"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_an_empty_group_touches_nothing(run, masked: bool, momentum: float | None) -> None:
    """No values at all, or a mask that lets none count: statistics and counter stay to the bit."""
    batches = (2, 1) if masked else (0, 0)
    case = simple_case(batches=batches, masked="all" if masked else "none", momentum=momentum)
    before = make_ranks(case)
    for rank, old in zip(run(case), before, strict=True):
        for name in RUNNING:
            assert rank.out[name].bits == old.out[name].bits, name
        assert np.isfinite(rank.out["y"].values).all()
        for name in ("dweight", "dbias"):
            assert np.isfinite(rank.out[name].values).all()


def test_an_empty_rank_follows_the_others() -> None:
    ranks = run_phases(simple_case(batches=(0, 4)))
    for name in RUNNING:
        assert ranks[0].out[name].bits == ranks[1].out[name].bits, name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_cumulative_average(dtype: str) -> None:
    """After k batches from an arbitrary start: the mean over these k batches."""
    means, state = [], None
    for k in range(5):
        case = simple_case(dtype, (3, 1), 4, (3,), seed=k, momentum=None)
        old = state or (case.running_mean.values, case.running_var.values)
        vectors = [Vector(v, case.running_mean.dtype) for v in old]
        case = dataclasses.replace(case, running_mean=vectors[0], running_var=vectors[1], batches=k)
        ranks = run_phases(case)
        check_training(case, ranks)
        state = tuple(ranks[0].out[name].values for name in RUNNING[:2])
        means.append(forward(case.policy, case.reference_shards).mean.astype(float))
        assert ranks[0].out["num_batches_tracked"].values.tolist() == [k + 1]
    limit = 8 * np.finfo(np.float64 if dtype == "float64" else np.float32).eps
    np.testing.assert_allclose(state[0], np.mean(means, axis=0), rtol=limit, atol=limit)


def test_momentum_zero_keeps_and_counts() -> None:
    case = simple_case(batches=(2,), momentum=0.0)
    (rank,), (old,) = run_phases(case), make_ranks(case)
    assert rank.out["running_mean"].bits == old.out["running_mean"].bits
    assert rank.out["running_var"].bits == old.out["running_var"].bits
    assert rank.out["num_batches_tracked"].values.tolist() == [4]


def test_the_counter_beyond_32_bits() -> None:
    case = dataclasses.replace(simple_case(batches=(2,)), batches=2**40)
    (rank,) = run_phases(case)
    assert rank.out["num_batches_tracked"].values.tolist() == [2**40 + 1]


def test_without_the_counter() -> None:
    case = simple_case(batches=(2, 3))
    expected = run_phases(case)
    ranks = run_phases(dataclasses.replace(case, batches=None))
    for one, other in zip(ranks, expected, strict=True):
        assert "num_batches_tracked" not in one.out
        assert one.out["running_mean"].bits == other.out["running_mean"].bits


@pytest.mark.parametrize("centering", ["on", "off"])
@pytest.mark.parametrize("factor", FACTORS)
def test_update_at_another_time_gives_the_same_bits(factor: str, centering: str) -> None:
    """normalize without statistics and update_running later: what normalize does at once."""
    case = simple_case(batches=(3, 1), variance_factor=factor, centering=centering)
    expected = run_phases(case)
    ranks = run_phases(dataclasses.replace(case, running_mean=None, running_var=None, batches=None))
    fresh = make_ranks(case)
    for rank, new, target in zip(ranks, fresh, expected, strict=True):
        assert rank.out["y"].bits == target.out["y"].bits
        for name in RUNNING:
            rank.out[name] = new.out[name]
        arrays = [rank.array(n) for n in ("wire", "total", *RUNNING[:2])]
        others = rank.arrays("center_total", "num_batches_tracked")
        y = rank.out["y"].bits
        rank.call(_core.update_running, rank.array("x"), rank.size, *arrays, **others)
        assert rank.out["y"].bits == y
        for name in RUNNING:
            assert rank.out[name].bits == target.out[name].bits, name


def test_normalize_twice_moves_twice() -> None:
    """The phases keep no state: each normalize is one batch."""
    case = simple_case("float64", (2, 2))
    ranks = make_ranks(case)
    driver.forward_phases(ranks)
    driver.normalize(ranks[0])
    statistics = forward(case.policy, case.reference_shards)
    state = (case.running_mean.values, case.running_var.values)
    for _ in range(2):
        *state, _ = update_running(case.policy, statistics, 0, *state)
    np.testing.assert_allclose(
        ranks[0].out["running_var"].values, state[1].astype(float), rtol=1e-14
    )


def test_infer_leaves_everything_but_its_outputs() -> None:
    case = simple_case(batches=(3, 0))
    ranks, before = driver.run_frozen(case), make_ranks(case)
    for rank, old in zip(ranks, before, strict=True):
        for name in RUNNING:
            assert rank.out[name].bits == old.out[name].bits
