"""The benchmark beside torch's layer counts what it says it counts. No timing is asserted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.torch_layer import report  # noqa: E402
from benchmarks.torch_layer.counting import Counter, LiveMemory  # noqa: E402

FLOATS = 4 * 1000  # bytes of a thousand


def test_counts_operations_launches_and_waits() -> None:
    x = torch.arange(6.0)
    with Counter() as counter:
        x.view(2, 3).add(1)
        torch.empty_like(x)
        x[x > 2]
        x.sum().item()
    counts = counter.counts
    names = ["view", "add", "empty_like", "gt", "index", "sum", "_local_scalar_dense"]
    assert counts.operations == names
    assert counts.launches == 5  # all but the view and the allocation
    assert counts.waits == 2  # for the mask and for the number
    assert counts.collectives == 0


def test_memory_that_only_autograd_keeps_is_counted() -> None:
    source = torch.ones(1000, requires_grad=True)
    with LiveMemory() as live:
        y = source.clone().exp()  # the clone is gone
        assert (live.now, live.peak) == (FLOATS, 2 * FLOATS)
        z = y.view(10, 100).mul(2)
        del y  # saved by exp
        assert (live.now, live.peak) == (2 * FLOATS, 2 * FLOATS)
        del z
        assert live.now == 0


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The project's, with tables of a quick run in it."""
    copy = tmp_path_factory.mktemp("torch-layer") / "torch-layer.md"
    shutil.copy(ROOT / "docs/torch-layer.md", copy)
    arguments = ["--quick", "--repeat", "1", "--markdown", str(copy)]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.torch_layer", *arguments]
    subprocess.run(command, check=True, timeout=150, cwd=ROOT)
    return copy.read_text()


def row(document: str, *cells: str) -> list[str]:
    """What follows these cells in the row of a table that begins with them."""
    start = re.escape("".join(f"| {cell} " for cell in cells))
    (found,) = re.findall(rf"^{start}\| (.*) \|$", document, re.MULTILINE)
    return found.split(" | ")


@pytest.mark.parametrize(
    ("case", "collectives", "waits"),
    [
        ("float32", ["1 / 1", "2 / 2"], "3 / 0"),
        ("float32, `momentum=None`", ["1 / 1", "2 / 2"], "4 / 0"),
        ("float64", ["1 / 2", "2 / 3"], "3 / 0"),
    ],
)
def test_both_layers_are_counted(
    document: str, case: str, collectives: list[str], waits: str
) -> None:
    for number, operation in enumerate(("forward", "forward+backward")):
        operations, launches, *others = row(document, case, operation)
        assert others == [collectives[number], waits]
        for pair in (operations, launches):
            of_torch, ours = map(int, pair.split(" / "))
            assert 0 < ours < of_torch


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        # Input and output, and in backward the gradient of the input.
        ("normalization", [[2, 2], [2, 2], [3, 3]]),
        # One tensor for both; torch overwrites the output only.
        ("normalization, leaky ReLU in place", [[2, 1], [2, 1], [4, 2]]),
    ],
)
def test_memory_is_that_of_input_and_output(
    document: str, block: str, expected: list[list[int]]
) -> None:
    found = [[float(value) for value in pair.split(" / ")] for pair in row(document, block)]
    for pair, of_layers in zip(found, expected, strict=True):
        assert pair == pytest.approx(of_layers, abs=0.05)


def test_the_rest_of_the_document_stays(document: str) -> None:
    original = (ROOT / "docs/torch-layer.md").read_text()
    for text in (document, original):
        assert text.count(report.BEGIN) == text.count(report.END) == 1
    assert document.partition(report.BEGIN)[0] == original.partition(report.BEGIN)[0]
    assert "CPU time" in document.partition(report.BEGIN)[2]


def test_a_document_without_the_marks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.md"
    path.write_text("nothing")
    with pytest.raises(ValueError, match=r"other\.md: expected the lines '<!-- From here on"):
        report.put_into(path, "table")
