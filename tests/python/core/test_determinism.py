"""The same bits again: over repeated runs, numbers of threads, and ways to call."""

from __future__ import annotations

import pytest

from support.cases import Case, simple_case
from support.driver import assert_same_bits, run_frozen, run_one_call, run_phases
from support.dtypes import FLOATS

# Large enough for several tasks of the backend, and shapes with a ragged end.
SHAPES = {
    "planes": ((2, 1), 9, (95, 97)),
    "small planes": ((33, 7), 65, (7, 7)),
    "one channel": ((2, 1), 1, (253, 251)),
    "rows": ((1031, 65), 100, ()),
}
THREADS = (1, 2, 3, 8)


def make(shape: str, dtype: str, layout: str, *, one_rank: bool = False, **more) -> Case:
    batches, channels, spatial = SHAPES[shape]
    batches = batches[:1] if one_rank else batches
    return simple_case(dtype, batches, channels, spatial, layout=layout, **more)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_do_not_depend_on_threads(dtype: str, layout: str, shape: str) -> None:
    case = make(shape, dtype, layout, residual=True, activation="relu", ratio=1.0)
    first = run_phases(case, threads=1)
    for threads in THREADS:
        assert_same_bits(first, run_phases(case, threads))
    assert_same_bits(first, run_one_call(case, threads=2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("masked", ["none", "some"])
def test_a_group_of_one_equals_the_phases(dtype, layout, shape, masked) -> None:
    """Reading a channel once must not change a bit, for any number of threads."""
    case = make(shape, dtype, layout, one_rank=True, masked=masked)
    first = run_phases(case)
    for threads in THREADS:
        assert_same_bits(first, run_one_call(case, threads, alone=True))
    assert_same_bits(first, run_one_call(case))


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_frozen_bits_do_not_depend_on_threads(dtype: str, layout: str) -> None:
    case = make("planes", dtype, layout)
    first = run_frozen(case)
    for threads in THREADS:
        assert_same_bits(first, run_frozen(case, threads))


def test_repeated_runs_give_the_same_bits() -> None:
    case = make("planes", "float32", "first", activation="leaky_relu")
    first = run_one_call(case, threads=2)
    for _ in range(5):
        assert_same_bits(first, run_one_call(case, threads=2))
