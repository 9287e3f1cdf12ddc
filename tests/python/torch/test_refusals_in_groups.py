"""An argument refused on one rank: that rank raises before it exchanges or writes anything.

Each rank runs the same steps twice, with and without refused calls in between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from refused_arguments import CASES, accepted, refused
from scenarios_refusals import SCENARIOS, WRITTEN, step, steps
from thread_ranks import run_ranks

from syncnorm import InvalidArgumentError
from syncnorm.torch import sync_batch_norm


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_over_gloo(scenario: str, worlds: Callable[[str, int], Any]) -> None:
    for (wrong,) in worlds("scenarios_refusals", 2)[scenario]:
        assert not wrong, "\n".join(wrong)


def test_over_threads() -> None:
    def body(rank: int, comm: Any) -> list[str]:
        return steps(rank, partial(sync_batch_norm), torch.float32, process_group=comm)[0]

    for wrong in run_ranks(2, body):
        assert not wrong, "\n".join(wrong)


TRAINING_ONLY = ("mask", "num_batches_tracked", "process_group")
IN_EVALUATION = [
    (name, kind)
    for name, kind in CASES
    if name not in TRAINING_ONLY and kind not in ("requires grad", "0 in training")
]


@pytest.mark.parametrize(
    ("name", "kind", "training"),
    [*((*case, True) for case in CASES), *((*case, False) for case in IN_EVALUATION)],
)
def test_in_one_process(name: str, kind: str, training: bool) -> None:
    good = accepted(0, training=training)
    wrong = refused(good, name, kind)
    before = [good[each].detach().clone() for each in WRITTEN]
    with pytest.raises(InvalidArgumentError):
        sync_batch_norm(**wrong)
    assert all(map(torch.equal, before, (good[each].detach() for each in WRITTEN)))
    step(sync_batch_norm, good)
