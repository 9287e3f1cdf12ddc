"""Test the counts of the comparison with torch's layer. No timing is asserted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from syncnorm import InvalidArgumentError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.torch_layer import report  # noqa: E402
from benchmarks.torch_layer.counting import (  # noqa: E402
    LiveMemory,
    OperationCounter,
    record_saved_tensors,
)

FLOATS_1000 = 4 * 1000  # bytes


def test_counts_operations_launches_and_synchronizations() -> None:
    x = torch.arange(6.0)
    with OperationCounter() as counter:
        x.view(2, 3).add(1)
        torch.empty_like(x)
        x[x > 2]
        x.sum().item()
    counts = counter.counts
    names = ["view", "add", "empty_like", "gt", "index", "sum", "_local_scalar_dense"]
    assert counts.operations == names
    assert counts.launches == 5  # all but the view and the allocation
    assert counts.synchronizations == 2  # for the mask and for the number
    assert counts.collectives == 0


def test_memory_saved_by_autograd_is_counted() -> None:
    source = torch.ones(1000, requires_grad=True)
    with LiveMemory() as live:
        y = source.clone().exp()  # frees the clone
        assert (live.now, live.peak) == (FLOATS_1000, 2 * FLOATS_1000)
        z = y.view(10, 100).mul(2)
        del y  # saved by exp
        assert (live.now, live.peak) == (2 * FLOATS_1000, 2 * FLOATS_1000)
        del z
        assert live.now == 0


def test_saved_tensors_are_recorded() -> None:
    x = torch.ones(3, requires_grad=True)
    with record_saved_tensors() as saved:
        y = x.exp()
        z = y + 1  # saves nothing
    assert [tensor.data_ptr() for tensor in saved] == [y.data_ptr()]
    z.sum().backward()


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a copy of docs/torch-layer.md with the tables of a quick run."""
    copy = tmp_path_factory.mktemp("torch-layer") / "torch-layer.md"
    shutil.copy(ROOT / "docs/torch-layer.md", copy)
    arguments = ["--quick", "--repeat", "1", "--markdown", str(copy)]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.torch_layer", *arguments]
    subprocess.run(command, check=True, timeout=150, cwd=ROOT)
    return copy.read_text()


def row(document: str, *cells: str) -> list[str]:
    """Return the other cells of the only table row that begins with `cells`."""
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
        # In place, y overwrites x; torch's activation overwrites only its own input.
        ("normalization, leaky ReLU in place", [[2, 1], [2, 1], [4, 2]]),
    ],
)
def test_memory_is_input_and_output(document: str, block: str, expected: list[list[int]]) -> None:
    found = [[float(value) for value in pair.split(" / ")] for pair in row(document, block)]
    for pair, of_layers in zip(found, expected, strict=True):
        assert pair == pytest.approx(of_layers, abs=0.05)


def test_host_time_has_the_ratio_to_torch(document: str) -> None:
    title, _, tables = document.partition(report.BEGIN)[2].partition("### Host time per call")
    assert title
    for operation in ("forward", "forward+backward"):
        (cells,) = re.findall(rf"^\| {re.escape(operation)} \| (.*) \|$", tables, re.MULTILINE)
        torch_time, our_time, ratio = map(float, cells.split(" | "))
        assert min(torch_time, our_time, ratio) > 0


def test_the_rest_of_the_document_is_unchanged(document: str) -> None:
    original = (ROOT / "docs/torch-layer.md").read_text()
    for text in (document, original):
        assert text.count(report.BEGIN) == text.count(report.END) == 1
    assert document.partition(report.BEGIN)[0] == original.partition(report.BEGIN)[0]
    assert "CPU time" in document.partition(report.BEGIN)[2]


@pytest.mark.parametrize(("text", "missing"), [("", report.BEGIN), (report.BEGIN, report.END)])
def test_a_document_without_the_markers_is_rejected(
    tmp_path: Path, text: str, missing: str
) -> None:
    path = tmp_path / "other.md"
    path.write_text(text)
    error = re.escape(f"other.md: has no line '{missing}', expected the lines '{report.BEGIN}'")
    with pytest.raises(InvalidArgumentError, match=error):
        report.replace_tables(path, "table")
    assert path.read_text() == text


def test_a_document_without_the_markers_is_rejected_before_measuring(tmp_path: Path) -> None:
    path = tmp_path / "other.md"
    path.write_text("nothing")
    command = [sys.executable, "-m", "benchmarks.torch_layer", "--markdown", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert "other.md: has no line" in done.stderr
