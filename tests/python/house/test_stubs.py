"""The binding's signatures are those that were reviewed and committed."""

from __future__ import annotations

import ast
import difflib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import syncnorm
from syncnorm import _core

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "python/syncnorm/_core.pyi"
PACKAGE = Path(syncnorm.__file__).parent


def generate(folder: Path) -> Path:
    """Make the stub as the build does, from the installed module."""
    shutil.copy(_core.__file__, folder)
    shutil.copytree(PACKAGE / "lib", folder / "lib")
    stub = folder / "_core.pyi"
    patterns = ROOT / "bindings/stub_patterns.txt"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "nanobind.stubgen", "-q", "-i", folder, "-m", "_core"),
            *("-p", patterns, "-o", stub),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return stub


@pytest.fixture(scope="module", params=["generated now", "installed"])
def stub(request, tmp_path_factory):
    if request.param == "installed":
        return PACKAGE / "_core.pyi"
    return generate(tmp_path_factory.mktemp("stub"))


def test_the_stub_is_the_committed_one(stub):
    assert stub != GOLDEN
    committed = GOLDEN.read_text(encoding="utf-8").splitlines()
    present = stub.read_text(encoding="utf-8").splitlines()
    difference = list(difflib.unified_diff(committed, present, "committed", "present", "", "", 1))
    advice = (
        "The signatures of syncnorm._core changed. If that is meant, run `make stubs`, commit "
        "python/syncnorm/_core.pyi, and adapt the layers that call it."
    )
    assert not difference, "\n".join([*difference, advice])


def test_the_stub_names_what_the_module_has():
    tree = ast.parse(GOLDEN.read_text(encoding="utf-8"))
    named = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    named |= {ast.unparse(node.target) for node in tree.body if isinstance(node, ast.AnnAssign)}
    assert named == {name for name in vars(_core) if not name.startswith("_")}


def test_the_exceptions_have_the_bases_that_the_stub_gives():
    tree = ast.parse(GOLDEN.read_text(encoding="utf-8"))
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    }
    assert len(bases) == 11
    for name, expected in bases.items():
        assert [base.__name__ for base in getattr(_core, name).__bases__] == expected
