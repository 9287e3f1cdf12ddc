"""A deterministic greedy cover: every pair of values of any two factors meets in some row."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable, Mapping, Sequence

Row = dict[str, Hashable]
Pair = tuple[str, Hashable, str, Hashable]
CANDIDATES = 12  # completions tried for each row; more give slightly fewer rows


def pairs_of(row: Mapping[str, Hashable]) -> set[Pair]:
    return {(a, row[a], b, row[b]) for a, b in itertools.combinations(row, 2)}


def all_pairs(factors: Mapping[str, Sequence[Hashable]]) -> list[Pair]:
    return [
        (a, left, b, right)
        for a, b in itertools.combinations(factors, 2)
        for left in factors[a]
        for right in factors[b]
    ]


def covering_rows(
    factors: Mapping[str, Sequence[Hashable]],
    allowed: Callable[[Row], bool],
    seed: int = 1,
) -> list[Row]:
    """Rows over all factors. `allowed` judges partial rows and accepts what it cannot refuse."""
    generator = random.Random(seed)
    wanted = [p for p in all_pairs(factors) if allowed({p[0]: p[1], p[2]: p[3]})]
    missing, rows = dict.fromkeys(wanted), []
    while missing:
        first = next(iter(missing))
        candidates = [
            complete(first, factors, allowed, missing, generator) for _ in range(CANDIDATES)
        ]
        row = max(candidates, key=lambda r: len(pairs_of(r) & missing.keys()))
        rows.append(row)
        for pair in pairs_of(row):
            missing.pop(pair, None)
    return rows


def complete(
    pair: Pair,
    factors: Mapping[str, Sequence[Hashable]],
    allowed: Callable[[Row], bool],
    missing: Mapping[Pair, None],
    generator: random.Random,
) -> Row:
    """A row that holds `pair`; each further factor takes the value with most missing pairs."""
    row: Row = {pair[0]: pair[1], pair[2]: pair[3]}
    order = list(factors)
    rest = [name for name in order if name not in row]
    generator.shuffle(rest)
    for name in rest:
        values = [value for value in factors[name] if allowed({**row, name: value})]
        if not values:
            raise ValueError(f"no value of {name} is allowed beside {row}")
        generator.shuffle(values)
        row[name] = max(values, key=lambda v: gain(row, name, v, order, missing))
    return {name: row[name] for name in order}


def gain(
    row: Row, name: str, value: Hashable, order: list[str], missing: Mapping[Pair, None]
) -> int:
    place = order.index(name)
    return sum(
        (
            (other, row[other], name, value)
            if order.index(other) < place
            else (name, value, other, row[other])
        )
        in missing
        for other in row
    )
