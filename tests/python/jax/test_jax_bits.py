"""Sums whose order is known give bits that can be compared: over devices, and with the core."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_driver import RANKS, mesh, on_devices, run

from support.cases import Case, simple_case
from support.driver import assert_same_bits, run_one_call
from syncnorm.jax import add_up, sum_over

FOUR = (2, 2, 2, 2)
CASES = {
    "plain": simple_case("float32", FOUR, 65, (3, 5)),
    "bfloat16, channels last": simple_case("bfloat16", FOUR, 7, (3, 5), layout="last"),
    "centred": simple_case("float32", FOUR, 7, (9,), ratio=1e4, centering="on"),
    "masked, with residual": simple_case(
        "float16", FOUR, 7, (9,), masked="some", residual=True, activation="elu"
    ),
    "summed gradients": simple_case("float32", FOUR, 7, (9,), grad_reduction="sum"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_without_x64_it_is_what_ranks_on_threads_compute(case: Case) -> None:
    """A thread group adds wires in the order of its ranks, and so does add_up."""
    with jax.enable_x64(False):
        ranks = run(case)
    names = ("y", "running_mean", "running_var", "dx", "dresidual", "dweight", "dbias")
    assert_same_bits(ranks, run_one_call(case), names)


def wires(ranks: int, length: int) -> np.ndarray:
    """Values of many magnitudes: another order of the sum gives other bits."""
    generator = np.random.default_rng(5)
    exponents = generator.integers(-8, 8, (ranks, length))
    return generator.standard_normal((ranks, length)) * 10.0**exponents


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint32).reshape(*values.shape, 2)


@pytest.mark.parametrize("length", [1, 6, 200])
@pytest.mark.parametrize("ranks", [1, 2, 4, 9])
def test_add_up_sums_in_float64_and_in_order(ranks: int, length: int) -> None:
    values = wires(ranks, length)
    expected = values[0].copy()
    for one in values[1:]:
        expected += one
    with jax.enable_x64(False):
        total = np.asarray(add_up(jnp.asarray(bits(values))))
    assert total.tobytes() == expected.tobytes()


def test_sum_over_gives_every_device_the_same_bits(x64: bool) -> None:
    values = wires(4, 200)
    given = values if x64 else bits(values)
    totals = on_devices(lambda wire: sum_over(wire, "ranks"), given)
    assert len({total.tobytes() for total in totals}) == 1
    total = totals[0] if x64 else totals[0].reshape(-1).view(np.float64)
    magnitude = np.abs(values).sum(0)
    assert (np.abs(total - values.sum(0)) <= 4 * 2.0**-53 * magnitude).all()


def test_shard_map_knows_that_a_total_is_alike(x64: bool) -> None:
    """With out_specs that say so; were it not known, shard_map would refuse."""
    values = wires(4, 6)
    given = values if x64 else bits(values)

    def summed(wire: jax.Array) -> jax.Array:
        return sum_over(wire[0], "ranks")

    mapped = jax.shard_map(summed, mesh=mesh(), in_specs=RANKS, out_specs=jax.P())
    assert mapped(given).shape == given.shape[1:]


def test_two_runs_have_the_same_bits(x64: bool) -> None:
    case = CASES["plain"]
    assert_same_bits(run(case), run(case))
