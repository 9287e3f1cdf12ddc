"""What the documents say must hold: their Python runs, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


# Their examples run as they are; one that needs more than this machine has says so behind the
# word python, such as ```python cupy.
SYSTEMS = ("mxnet", "paddle", "pytorch-encoding", "mmcv", "megengine")
WITH_EXAMPLES = [
    "README.md",
    "docs/arrays.md",
    "docs/drop-in.md",
    *(f"docs/from-{name}.md" for name in SYSTEMS),
]


def examples(name: str) -> list[str]:
    block = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return block.findall((ROOT / name).read_text())


def test_the_examples_are_found() -> None:
    assert {name: len(examples(name)) for name in WITH_EXAMPLES} == {
        "README.md": 2,
        "docs/arrays.md": 6,
        "docs/drop-in.md": 1,
        "docs/from-mxnet.md": 3,
        "docs/from-paddle.md": 2,
        "docs/from-pytorch-encoding.md": 2,
        "docs/from-mmcv.md": 1,
        "docs/from-megengine.md": 2,
    }


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_run(name: str, tmp_path: Path) -> None:
    """Each by itself, but in one process, since it takes seconds to import a framework."""
    blocks = [
        f"exec(compile({code!r}, '{name}, example {number}', 'exec'), {{}})"
        for number, code in enumerate(examples(name), 1)
    ]
    command = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
