"""Every output of the core against the reference, over a pairwise cover of all factors.

Each case runs by phases and by the one-call form with ranks on threads; both must give the same
bits. `--exhaustive` adds the full product of the principal factors (about an hour).
"""

from __future__ import annotations

import itertools

import pytest

from support.cases import Case
from support.compare import check_frozen, check_training
from support.driver import assert_same_bits, run_frozen, run_one_call, run_phases
from support.matrix import (
    FACTORS,
    FIXED_WHEN_FROZEN,
    FROZEN_FACTORS,
    PRINCIPAL,
    allowed,
    build,
    full_product,
    row_name,
)
from support.pairwise import covering_rows, pairs_of

# One cover meets every pair; three independent ones also meet most triples.
ROWS = [row for seed in (1, 2, 3) for row in covering_rows(FACTORS, allowed, seed)]

FROZEN_ROWS = covering_rows(FROZEN_FACTORS, allowed)


def check_case(case: Case, threads: int) -> None:
    ranks = run_phases(case, threads)
    check_training(case, ranks)
    assert_same_bits(ranks, run_one_call(case, threads))


def test_the_cover_is_complete_and_small() -> None:
    met = set().union(*(pairs_of(row) for row in ROWS))
    for (a, left), (b, right) in itertools.combinations(FACTORS.items(), 2):
        for one, other in itertools.product(left, right):
            assert not allowed({a: one, b: other}) or (a, one, b, other) in met
    assert len(ROWS) <= 250


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_training(row: dict) -> None:
    check_case(build(row), row["threads"])


@pytest.mark.parametrize("row", FROZEN_ROWS, ids=row_name)
def test_frozen(row: dict) -> None:
    case = build(FIXED_WHEN_FROZEN | row)
    check_frozen(case, run_frozen(case, row["threads"]))


@pytest.mark.exhaustive
@pytest.mark.parametrize("channels", PRINCIPAL["channels"])
@pytest.mark.parametrize("layout", PRINCIPAL["layout"])
@pytest.mark.parametrize("dtype", PRINCIPAL["dtype"])
def test_full_product(dtype: str, layout: str, channels: int) -> None:
    failures = []
    for row in full_product(dtype, layout, channels):
        try:
            check_case(build(row), row["threads"])
        except AssertionError as error:
            failures.append(f"{row_name(row)}: {error}")
    assert not failures, f"{len(failures)} rows failed\n" + "\n".join(failures[:20])
