"""What the documents say must hold: their Python runs, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# Their examples run as they are; one that needs more than this machine has says so behind the
# word python, such as ```python cupy.
WITH_EXAMPLES = ["README.md", "docs/arrays.md"]


def examples() -> list[Any]:
    block, found = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE), []
    for name in WITH_EXAMPLES:
        blocks = block.findall((ROOT / name).read_text())
        found += [pytest.param(code, id=f"{name}-{i}") for i, code in enumerate(blocks)]
    return found


def test_the_examples_are_found() -> None:
    names = [example.id.rpartition("-")[0] for example in examples()]
    assert {name: names.count(name) for name in WITH_EXAMPLES} == {
        "README.md": 2,
        "docs/arrays.md": 5,
    }


@pytest.mark.parametrize("code", examples())
def test_the_example_runs(code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
