"""The fault matrix over groups of the kind threads."""

from __future__ import annotations

from .ranks import Ranks
from .scenarios import Fault

KIND = "threads"


def test_fault(ranks: Ranks, fault: Fault) -> None:
    ranks.check(fault)
