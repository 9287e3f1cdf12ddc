"""The fault matrix over groups of the kind callback."""

from __future__ import annotations

from .ranks import Ranks
from .scenarios import Fault

KIND = "callback"


def test_fault(ranks: Ranks, fault: Fault) -> None:
    ranks.check(fault)
