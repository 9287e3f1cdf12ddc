"""batch_norm on four devices against the reference, over a pairwise cover of all factors."""

from __future__ import annotations

import jax
import pytest
from jax_driver import run

from support.compare import check_frozen, check_training
from support.matrix import FACTORS, FIXED_WHEN_FROZEN, FROZEN_FACTORS, allowed, build, row_name
from support.pairwise import Row, covering_rows

HERE = {
    "shards": ("four",),
    "channels": (1, 7, 64, 65, 100),
    "spatial": ("none", "7x7", "odd", "rank 5"),
    "threads": (1,),
    "in_place": ("no", "y beside x"),
    "x64": (False, True),
}


def allowed_in_jax(row: Row) -> bool:
    """float64 is there with x64 alone."""
    needs_x64 = row.get("dtype") == "float64"
    return allowed(row) and not (needs_x64 and not row.get("x64", True))


ROWS = [row for seed in (1, 2) for row in covering_rows(FACTORS | HERE, allowed_in_jax, seed)]
FROZEN_ROWS = covering_rows(FROZEN_FACTORS | HERE, allowed_in_jax)


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_training(row: Row) -> None:
    case = build(row)
    with jax.enable_x64(row["x64"]):
        check_training(case, run(case))


@pytest.mark.parametrize("row", FROZEN_ROWS, ids=row_name)
def test_frozen(row: Row) -> None:
    case = build(FIXED_WHEN_FROZEN | row)
    with jax.enable_x64(row["x64"]):
        check_frozen(case, run(case, training=False))
