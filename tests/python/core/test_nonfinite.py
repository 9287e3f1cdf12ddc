"""NaN and infinity stay visible in the output of their channel, and only there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from support.cases import Case, ShardData, simple_case
from support.driver import Rank, run_frozen, run_one_call, run_phases

BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}
CHANNELS, CHANNEL = 7, 2  # the channel that is hit
AT = (1, CHANNEL, 3)
OTHERS = [c for c in range(CHANNELS) if c != CHANNEL]
ONE_CALL = {"phases": run_phases, "one call": run_one_call}


def with_value(values: np.ndarray, value: float, at: tuple[int, ...] = AT) -> np.ndarray:
    changed = values.copy()
    changed[at] = value
    return changed


def spoil(case: Case, field: str, value: float) -> Case:
    """`value` put into x, dy or residual of the first shard."""
    first = case.shards[0]
    spoilt = dataclasses.replace(first, **{field: with_value(getattr(first, field), value)})
    return dataclasses.replace(case, shards=[spoilt, *case.shards[1:]])


def by_channel(rank: Rank, name: str) -> np.ndarray:
    """Channels first and flat: (C, values)."""
    values = rank.out[name].values
    axis = 1 if values.ndim > 1 else 0
    return np.moveaxis(values, axis, 0).reshape(CHANNELS, -1)


def assert_only_there(spoilt: list[Rank], clean: list[Rank], names: list[str]) -> None:
    for one, other in zip(spoilt, clean, strict=True):
        for name in names:
            a, b = by_channel(one, name), by_channel(other, name)
            assert np.isfinite(b).all(), f"the case itself is not finite in {name}"
            np.testing.assert_array_equal(a[OTHERS], b[OTHERS], err_msg=name)


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("eps_mode", ["add", "max"])
@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "elu"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_in_x(value, dtype, activation, eps_mode, layout) -> None:
    case = simple_case(
        dtype, (3, 2), CHANNELS, (5,), layout=layout, activation=activation, eps_mode=eps_mode
    )
    names = ["y", "dx", "dweight", "running_mean", "running_var"]
    spoilt = run_phases(spoil(case, "x", value))
    assert_only_there(spoilt, run_phases(case), names)
    for rank in spoilt:
        assert np.isnan(by_channel(rank, "y")[CHANNEL]).any()
        assert not np.isfinite(by_channel(rank, "running_mean")[CHANNEL]).any()
        assert np.isnan(by_channel(rank, "running_var")[CHANNEL]).all()
        assert np.isnan(by_channel(rank, "dx")[CHANNEL]).all()
    if np.isnan(value):
        assert all(np.isnan(by_channel(rank, "y")[CHANNEL]).all() for rank in spoilt)


@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "elu"])
@pytest.mark.parametrize("field", ["x", "dy"])
@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_in_place(value: float, field: str, activation: str) -> None:
    case = simple_case("float32", (3, 2), CHANNELS, (5,), activation=activation, in_place=True)
    case = dataclasses.replace(case, overwrite=True)
    spoilt = run_phases(spoil(case, field, value))
    assert_only_there(spoilt, run_phases(case), ["y", "dx", "dweight", "dbias"])
    for rank in spoilt:
        assert np.isnan(by_channel(rank, "y")[CHANNEL]).any() == (field == "x")
        assert not np.isfinite(by_channel(rank, "dx")[CHANNEL]).any()
    assert not np.isfinite(by_channel(spoilt[0], "dweight")[CHANNEL]).any()


@pytest.mark.parametrize("centering", ["on", "off"])
@pytest.mark.parametrize("batches", [(3,), (3, 2)])
@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_in_one_call(value: float, batches: tuple[int, ...], centering: str) -> None:
    case = simple_case("float32", batches, CHANNELS, (5,), activation="relu", centering=centering)
    spoilt = run_one_call(spoil(case, "x", value))
    assert_only_there(spoilt, run_one_call(case), ["y", "dx", "dweight", "dbias"])
    assert np.isnan(by_channel(spoilt[0], "y")[CHANNEL]).any()


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("activation", ["identity", "leaky_relu"])
@pytest.mark.parametrize("run", ONE_CALL.values(), ids=ONE_CALL.keys())
def test_in_dy(run, activation: str, layout: str) -> None:
    case = simple_case("float32", (3, 2), CHANNELS, (5,), layout=layout, activation=activation)
    spoilt = run(spoil(case, "dy", np.nan))
    assert_only_there(spoilt, run(case), ["y", "dx", "dweight", "dbias"])
    for rank in spoilt:  # through the sums, on every rank
        assert np.isnan(by_channel(rank, "dx")[CHANNEL]).all()
    for name in ("dweight", "dbias"):  # local: on the rank that has it
        assert np.isnan(by_channel(spoilt[0], name)[CHANNEL]).all()
        assert np.isfinite(by_channel(spoilt[1], name)).all()


@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "elu"])
def test_in_residual(activation: str) -> None:
    """A residual takes no part in the statistics: one value of y is hit."""
    case = simple_case("float32", (3, 2), CHANNELS, (5,), residual=True, activation=activation)
    y, clean = (run_phases(c)[0].out["y"].values for c in (spoil(case, "residual", np.nan), case))
    assert np.isnan(y[AT])
    np.testing.assert_array_equal(
        np.delete(y.ravel(), flat_index(y)), np.delete(clean.ravel(), flat_index(y))
    )


def flat_index(values: np.ndarray) -> int:
    return int(np.ravel_multi_index(AT, values.shape))


@pytest.mark.parametrize("layout", ["first", "last"])
def test_what_does_not_count_does_not_spoil_the_statistics(layout: str) -> None:
    case = simple_case("float32", (3, 2), CHANNELS, (5,), layout=layout, masked="some")
    hidden = [
        dataclasses.replace(s, mask=with_value(s.mask, 0, (AT[0], AT[2])) if i == 0 else s.mask)
        for i, s in enumerate(case.shards)
    ]
    case = dataclasses.replace(case, shards=hidden)
    spoilt, clean = run_phases(spoil(case, "x", np.nan)), run_phases(case)
    for one, other in zip(spoilt, clean, strict=True):
        for name in ("running_mean", "running_var", "saved"):
            assert one.out[name].bits == other.out[name].bits, name
    y = spoilt[0].out["y"].values
    assert np.isnan(y[AT])
    assert np.isnan(y).sum() == 1


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize(
    "options",
    [{"activation": a} for a in ("identity", "relu", "leaky_relu", "elu")]
    + [{"activation": a, "in_place": True} for a in ("identity", "leaky_relu", "elu")],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_in_parameters(options: dict, name: str) -> None:
    case = simple_case("float32", (3, 2), CHANNELS, (5,), **options)
    vector = getattr(case, name)
    broken = dataclasses.replace(vector, values=with_value(vector.values, np.nan, (CHANNEL,)))
    spoilt, clean = run_phases(dataclasses.replace(case, **{name: broken})), run_phases(case)
    assert_only_there(spoilt, clean, ["y", "dx", "dweight", "dbias"])
    assert all(np.isnan(by_channel(rank, "y")[CHANNEL]).all() for rank in spoilt)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize("eps_mode", ["add", "max"])
def test_in_statistics_that_are_used(name: str, eps_mode: str) -> None:
    case = simple_case("float32", (3,), CHANNELS, (5,), activation="relu", eps_mode=eps_mode)
    vector = getattr(case, name)
    broken = dataclasses.replace(vector, values=with_value(vector.values, np.nan, (CHANNEL,)))
    spoilt, clean = run_frozen(dataclasses.replace(case, **{name: broken})), run_frozen(case)
    assert_only_there(spoilt, clean, ["y", "dx"])
    assert np.isnan(by_channel(spoilt[0], "y")[CHANNEL]).all()


def test_overflow_of_float16_is_infinity_not_a_number_near_it() -> None:
    x = np.array([[[60000.0, 1.0]], [[1.0, 1.0]]])
    case = Case("float16", 1, [ShardData(x, np.ones_like(x))], given={"eps": 1e-5})
    ranks = run_phases(dataclasses.replace(case, weight=simple_weight(60000.0)))
    assert ranks[0].out["y"].values[0, 0, 0] == np.inf


def simple_weight(value: float):
    return dataclasses.replace(simple_case().weight, values=np.array([value]))
