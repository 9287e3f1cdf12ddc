"""The code blocks of docs/recipes.md, by the heading above them."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs/recipes.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def recipes() -> dict[str, list[str]]:
    """Return the Python blocks under each heading."""
    sections = re.split(r"^## (.+)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        heading: [code for language, code in _BLOCK.findall(text) if language == "python"]
        for heading, text in zip(sections[1::2], sections[2::2], strict=True)
    }


def recipe(heading: str, number: int = 0) -> str:
    """Return the code of one block under a heading."""
    return recipes()[heading][number]
