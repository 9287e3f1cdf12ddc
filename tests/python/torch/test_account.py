"""What an error says of where the ranks of a group were."""

from __future__ import annotations

import pytest
import torch

from syncnorm import Options
from syncnorm.torch.hang_help.account import account, listed
from syncnorm.torch.hang_help.calls import Record
from syncnorm.torch.hang_help.positions import (
    FAILED,
    GAVE_UP,
    IN_CALL,
    NOTICED,
    OUTSIDE,
    CallTold,
    Position,
    position_of,
)


def call_told(layer: str = "bn", shape: tuple[int, ...] = (2, 4), **options: float) -> CallTold:
    return CallTold(layer, "forward", 3, shape, "float32", options)


def position(state: str, *calls: CallTold) -> Position:
    return Position(7, state, since=100.0, told=103.0, calls=calls)


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
    assert account({5: position(state, call_told())}, [5], 141.0) == "  " + expected.replace(
        "CALL", call
    )


def test_ranks_at_one_place_share_a_line() -> None:
    told = {rank: position(FAILED, call_told(shape=(rank, 4))) for rank in range(6)}
    told[3] = position(FAILED, call_told("{other}"))
    inputs = "input (0, 4) or (1, 4) or (2, 4) or others"
    assert account(told, range(7), 103.0).splitlines() == [
        f"  ranks 0-2, 4-5: in forward of 'bn' (call 3), 4 channels, {inputs} float32",
        "  rank 3: in forward of '{other}' (call 3), 4 channels, input (2, 4) float32",
        "  rank 6: told nothing (ended, or cannot tell)",
    ]


def test_a_rank_without_calls() -> None:
    assert account({0: position(OUTSIDE)}, [0], 101.0) == (
        "  rank 0: in no call for 1.0 s, the last was none"
    )


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [([4], "rank 4"), ([1, 2], "ranks 1-2"), ([7, 0, 3, 1, 2], "ranks 0-3, 7")],
)
def test_lists_of_ranks(ranks: list[int], expected: str) -> None:
    assert listed(ranks) == expected


def test_a_record_keeps_the_last_calls_and_tells_them_as_they_were() -> None:
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
    assert "second sum" in account({0: inside}, [0], inside.told)
    assert Position.from_json(inside.to_json()) == inside
    assert len(record.last()) == 16
