"""Channel axes anywhere, in arrays that lie in any way."""

from __future__ import annotations

import random

import pytest
from any_axes import random_case, run

from support.compare import check_training


@pytest.mark.parametrize("ndim", [2, 3, 4, 5, 6])
def test_against_the_reference(ndim: int) -> None:
    """Samples of what there is, the same in every run."""
    chance = random.Random(ndim)
    for _ in range(250):
        case, form = random_case(chance, ndim)
        check_training(case, run(case, form))
