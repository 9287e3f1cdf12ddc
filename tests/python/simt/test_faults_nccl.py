"""The fault matrix over groups of the kind nccl."""

from __future__ import annotations

from faults.fixtures import pytest_generate_tests, ranks
from faults.ranks import Ranks
from faults.scenarios import Fault

__all__ = ["pytest_generate_tests", "ranks"]

KIND = "nccl"


def test_fault(ranks: Ranks, fault: Fault) -> None:
    ranks.check(fault)
