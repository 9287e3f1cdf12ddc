"""Published numbers, as the text that was printed: compared digit by digit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Paddle:
    """The example of paddle.nn.SyncBatchNorm: one rank, eps 1e-5, old-value momentum 0.9."""

    x: np.ndarray
    y: str
    running_mean: str
    running_var: str


PADDLE = Paddle(
    x=np.array([[[[0.3, 0.4], [0.3, 0.07]], [[0.83, 0.37], [0.18, 0.93]]]]),
    y="0.26824948 1.09363246 0.26824948 -1.63013160 0.80956620 -0.66528702 -1.27446556 1.13018656",
    running_mean="0.02675 0.05775",
    running_var="0.901466875 0.909726875",
)


@dataclass(frozen=True)
class UnequalShards:
    """Two ranks with 4 values and 1 value of one channel; eps 1e-5, momentum 0.1 from (0, 1)."""

    x: tuple[np.ndarray, ...]
    dy: tuple[np.ndarray, ...]


UNEQUAL = UnequalShards(
    x=(np.array([[[1.0, 3.0]], [[2.0, 6.0]]]), np.array([[[9.0]]])),
    dy=(np.array([[[1.0, -1.0]], [[2.0, 0.5]]]), np.array([[[-3.0]]])),
)


@dataclass(frozen=True)
class Expected:
    """What a weighting makes of UNEQUAL; running_var by (variance factor, rank)."""

    weighting: str
    mean: str
    var: str
    y: str
    dx: str
    dweight: str
    running_var: dict[tuple[str, int], str]


VECTORS = (
    Expected(
        "count",
        "4.2",
        "8.56",
        "-1.09373684 -0.41015132 -0.75194408 0.61522697 1.64060527",
        "-0.13256389 -0.49831446 0.36814635 0.49112712 -0.22839512",
        "-1.87986020 -4.92181580",
        {("unbiased", 0): "1.97", ("unbiased", 1): "1.97", ("biased", 0): "1.756"},
    ),
    Expected(
        "equal",
        "6",
        "10.75",
        "-1.52498499 -0.91499100 -1.21998800 0 0.91499100",
        "-0.01285566 -0.48808367 0.35952433 0.17156081 -0.03014580",
        "-3.04996999 -2.74497299",
        {
            ("biased", 0): "1.975",
            ("unbiased_local", 0): "2.12857143",
            ("unbiased_local", 1): "3.05",
        },
    ),
    Expected(
        "batch",
        "5",
        "10.3333333",
        "-1.24434143 -0.62217072 -0.93325607 0.31108536 1.24434143",
        "-0.05435593 -0.48084411 0.35457069 0.27930773 -0.09867837",
        "-2.33314018 -3.73302429",
        {
            ("biased", 0): "1.93333333",
            ("unbiased_local", 0): "2.08095238",
            ("unbiased_local", 1): "2.96666667",
        },
    ),
)


def printed_like(expected: str, values: Iterable[float]) -> str:
    """`values` printed with as many decimals as each number of `expected` shows."""
    decimals = [len(text.partition(".")[2]) for text in expected.split()]
    numbers = [float(value) for value in values]
    # Adding 0.0 turns a rounded -0 into 0.
    texts = [f"{round(number, d) + 0.0:.{d}f}" for number, d in zip(numbers, decimals, strict=True)]
    return " ".join(texts)
