"""docs/faults.md is the table."""

from __future__ import annotations

from .page import PAGE, page
from .ranks import NOISE


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(NOISE), "run `make faults`"
