"""How errors describe the positions of the ranks of a group."""

from __future__ import annotations

import pytest
import torch

from syncnorm import Options
from syncnorm.torch.desync.errors import describe, rank_list
from syncnorm.torch.desync.records import (
    FAILED,
    GAVE_UP,
    IN_CALL,
    NOTICED,
    OUTSIDE,
    CallRecord,
    Position,
    Record,
    position_of,
)


def published_call(
    layer: str = "bn", shape: tuple[int, ...] = (2, 4), **options: float
) -> CallRecord:
    return CallRecord(layer, "forward", 3, shape, "float32", options)


def position(state: str, *calls: CallRecord) -> Position:
    return Position(7, state, since=100.0, published=103.0, calls=calls)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (IN_CALL, "rank 5: in CALL"),
        (FAILED, "rank 5: in CALL"),
        (GAVE_UP, "rank 5: gave up after 3.0 s in CALL"),
        (NOTICED, "rank 5: noticed it after CALL"),
        (OUTSIDE, "rank 5: in no call for 41 s, the last was CALL"),
    ],
)
def test_the_words_for_each_state(state: str, expected: str) -> None:
    call = "forward of 'bn' (call 3), 4 channels, input (2, 4) float32"
    assert describe({5: position(state, published_call())}, [5], 141.0) == "  " + expected.replace(
        "CALL", call
    )


def test_ranks_at_one_place_share_a_line() -> None:
    positions = {rank: position(FAILED, published_call(shape=(rank, 4))) for rank in range(6)}
    positions[3] = position(FAILED, published_call("{other}"))
    inputs = "input (0, 4) or (1, 4) or (2, 4) or others"
    assert describe(positions, range(7), 103.0).splitlines() == [
        f"  ranks 0-2, 4-5: in forward of 'bn' (call 3), 4 channels, {inputs} float32",
        "  rank 3: in forward of '{other}' (call 3), 4 channels, input (2, 4) float32",
        (
            "  rank 6: published nothing (ended, in no call, or cannot reach the store;"
            " SYNCNORM_WATCH=1 tells which)"
        ),
    ]


def test_a_rank_without_calls() -> None:
    assert describe({0: position(OUTSIDE)}, [0], 101.0) == (
        "  rank 0: in no call for 1.0 s, the last was none"
    )


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [([4], "rank 4"), ([1, 2], "ranks 1-2"), ([7, 0, 3, 1, 2], "ranks 0-3, 7")],
)
def test_lists_of_ranks(ranks: list[int], expected: str) -> None:
    assert rank_list(ranks) == expected


def test_a_record_keeps_the_last_calls_as_they_were() -> None:
    record, x = Record(), torch.zeros(2, 3, 5)
    for number in range(40):
        record.begin(f"bn{number}", "forward", number, Options(eps=0.5), x)
        record.sums += 1
        record.end()
    outside = position_of(record)
    assert (outside.state, outside.sum, outside.calls[0].part) == (OUTSIDE, 41, 0)
    assert [call.layer for call in outside.calls] == ["bn39", "bn38", "bn37", "bn36"]
    record.begin(None, "forward", 40, Options(), x)
    assert position_of(record).sum == 41
    record.sums += 2
    record.in_sum = True
    inside = position_of(record)
    assert (inside.state, inside.sum, inside.calls[0].part) == (IN_CALL, 42, 2)
    assert "second all-reduce" in describe({0: inside}, [0], inside.published)
    assert Position.from_json(inside.to_json()) == inside
    assert len(record.last()) == 16
