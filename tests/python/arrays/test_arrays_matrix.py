"""Every result of syncnorm.numpy against the reference, and bit for bit against the core.

The rows are another cover of the factors of core/test_matrix.py.
"""

from __future__ import annotations

import pytest

from support import driver
from support.adapter_driver import run_frozen, run_one_call, run_phases
from support.compare import check_frozen, check_training
from support.driver import assert_same_bits
from support.matrix import (
    FACTORS,
    FIXED_WHEN_FROZEN,
    FROZEN_FACTORS,
    allowed,
    build,
    row_name,
)
from support.numpy_arrays import NUMPY
from support.pairwise import covering_rows

ROWS = [row for seed in (4, 5) for row in covering_rows(FACTORS, allowed, seed)]
FROZEN_ROWS = covering_rows(FROZEN_FACTORS, allowed, seed=4)


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_training(row: dict) -> None:
    case, threads = build(row), row["threads"]
    ranks = run_one_call(NUMPY, case, threads)
    check_training(case, ranks)
    assert_same_bits(ranks, driver.run_one_call(case))
    assert_same_bits(ranks, run_phases(NUMPY, case))


@pytest.mark.parametrize("row", FROZEN_ROWS, ids=row_name)
def test_frozen(row: dict) -> None:
    case = build(FIXED_WHEN_FROZEN | row)
    ranks = run_frozen(NUMPY, case, row["threads"])
    check_frozen(case, ranks)
    assert_same_bits(ranks, driver.run_frozen(case))


@pytest.mark.parametrize("row", [r for r in ROWS if r["shards"] == "alone"], ids=row_name)
def test_without_a_communicator(row: dict) -> None:
    """A group of one needs none, and reads a channel only once."""
    case, threads = build(row), row["threads"]
    ranks = run_one_call(NUMPY, case, threads, alone=True)
    assert_same_bits(ranks, run_one_call(NUMPY, case))
    assert_same_bits(ranks, driver.run_one_call(case, alone=True))
