"""docs/embedding.md shows what is compiled, and tools/excerpts keeps it so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools/excerpts"
GUIDE = ROOT / "docs/embedding.md"
SOURCE = "examples/01_world_of_one/CMakeLists.txt"


def excerpts(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(name="page")
def page_with_one_block(tmp_path: Path) -> Path:
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n<!-- {SOURCE}: find -->\n```cmake\nold\n```\n\nAfter.\n", "utf-8")
    return page


def test_the_guide_shows_what_the_sources_have() -> None:
    done = excerpts("--check", GUIDE)
    assert done.returncode == 0, done.stderr


def test_the_guide_shows_every_example() -> None:
    """And nothing that is not compiled: all else in it is prose, or a command."""
    text = GUIDE.read_text(encoding="utf-8")
    sources = re.findall(r"^<!-- (\S+): ", text, re.MULTILINE)
    assert len(sources) == len(re.findall(r"^```\w", text, re.MULTILINE)) >= 20
    shown = {Path(source).parts[1] for source in sources if source.startswith("examples/")}
    assert shown == {path.name for path in (ROOT / "examples").glob("[0-9][0-9]_*")}
    others = {Path(source).parent for source in sources if not source.startswith("examples/")}
    assert others == {Path("tests/python/house/consumer")}


def test_a_block_that_differs_is_found_and_brought_up_to_date(page: Path) -> None:
    done = excerpts("--check", page)
    assert done.returncode == 1
    assert f"page.md:3: differs from [doc: find] in {SOURCE}" in done.stderr
    assert excerpts(page).returncode == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"Before.\n\n<!-- {SOURCE}: find -->\n```cmake\nfind_package(syncnorm ")
    assert text.endswith("\n```\n\nAfter.\n")
    assert "[end]" not in text
    assert excerpts("--check", page).returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (f"<!-- {SOURCE}: find -->\n", "", "page.md:3: the block does not say which source"),
        (": find", ": found", "[doc: found] with its [end] is there 0 times"),
        ("CMakeLists", "Makelists", "there is no such file"),
    ],
)
def test_a_block_without_its_source_is_refused(
    page: Path, old: str, new: str, complaint: str
) -> None:
    page.write_text(page.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    for arguments in (["--check", page], [page]):
        done = excerpts(*arguments)
        assert done.returncode == 1
        assert complaint in done.stderr
