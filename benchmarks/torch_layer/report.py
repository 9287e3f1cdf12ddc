"""Format the results as Markdown tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from syncnorm import InvalidArgumentError
from syncnorm._cli.machine import machine_line
from syncnorm.bench.timing import Rounds

from .cases import COUNTED_CASES, HOST_SHAPE, MEMORY_SHAPE, OPERATIONS, RANKS

BEGIN = "<!-- From here on: made by python -m benchmarks.torch_layer -->"
END = "<!-- Up to here. -->"


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of one run. ranks: from `measure_on_ranks`."""

    machine: dict[str, Any]
    ranks: dict[str, Any]


def format_markdown(results: Results) -> str:
    """Return all tables."""
    date = results.machine["date"].partition("T")[0]
    parts = [
        f"{machine_line(results.machine)}; {date}.",
        _counts(results.ranks["counts"]),
        _operations(results.ranks["counts"][COUNTED_CASES[0].name]),
        _memory(results.ranks),
        _host_time(results.ranks["host"]),
        _cpu_time(results.ranks),
    ]
    return "\n\n".join(parts) + "\n"


def replace_tables(document: Path, text: str) -> None:
    """Replace everything between the two marker lines of `document` by `text`.

    Raises:
        InvalidArgumentError: The document lacks a marker line.
    """
    before, after = split_document(document)
    document.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def split_document(document: Path) -> tuple[str, str]:
    """Return the text before the first marker line of `document` and after the second.

    Raises:
        InvalidArgumentError: The document lacks a marker line.
    """
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        missing = END if begin else BEGIN
        raise InvalidArgumentError(
            f"{document}: has no line '{missing}', expected the lines '{BEGIN}' and '{END}' around"
            " the tables"
        )
    return before, after


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _counts(counts: dict[str, Any]) -> str:
    rows = []
    for name, by_layer in counts.items():
        for operation in OPERATIONS:
            torch, ours = by_layer["torch"][operation], by_layer["syncnorm"][operation]
            rows.append(
                (
                    name,
                    operation,
                    f"{len(torch.operations)} / {len(ours.operations)}",
                    f"{torch.launches} / {ours.launches}",
                    f"{torch.collectives} / {ours.collectives}",
                    f"{torch.synchronizations} / {ours.synchronizations}",
                )
            )
    head = (
        "torch / syncnorm",
        "",
        "operations dispatched",
        "launches on a device",
        "collectives",
        "host-device synchronizations",
    )
    return f"### Operations of one call, {RANKS} ranks\n\n{_table(head, rows)}"


def _operations(by_layer: dict[str, Any]) -> str:
    lines = ["The operations of forward and backward in float32, in order:", ""]
    for name, counts in by_layer.items():
        operations = ", ".join(f"`{each}`" for each in counts["forward+backward"].operations)
        lines.append(f"- {name}: {operations}")
    return "\n".join(lines)


def _memory(ranks: dict[str, Any]) -> str:
    rows = []
    for name, by_layer in ranks["memory"].items():
        torch, ours = by_layer["torch"], by_layer["syncnorm"]
        rows.append((name, *(f"{torch[key]:.2f} / {ours[key]:.2f}" for key in torch)))
    saved = " / ".join(f"{ranks['saved'][name]:.0f}" for name in ("torch", "syncnorm"))
    return (
        f"### Memory in multiples of x ({_size(MEMORY_SHAPE)}, float32)\n\n"
        f"{_table(('torch / syncnorm', 'kept', 'peak of forward', 'peak of backward'), rows)}\n\n"
        f"Saved for backward in addition to x and weight: {saved} bytes per channel."
    )


def _host_time(host: dict[str, Rounds]) -> str:
    rows = [
        (
            operation,
            *(f"{1e6 * seconds:.0f}" for seconds in rounds.medians().values()),
            f"{rounds.ratios('torch')['syncnorm']:.2f}",
        )
        for operation, rounds in host.items()
    ]
    head = ("", "torch without its kernels, us", "syncnorm, us", "syncnorm / torch")
    title = f"### Host time per call ({_size(HOST_SHAPE)}), without communication"
    return f"{title}\n\n{_table(head, rows)}"


def _cpu_time(ranks: dict[str, Any]) -> str:
    rows = [
        (
            _size(shape),
            f"{1e3 * rounds.medians()['syncnorm']:.2f}",
            f"{rounds.ratios('naive')['syncnorm']:.2f}",
            f"{rounds.ratios('local')['syncnorm']:.2f}",
            f"{ranks['alone'][shape].ratios('local')['syncnorm']:.2f}",
        )
        for shape, rounds in ranks["seconds"].items()
    ]
    head = (
        "x on each rank",
        "syncnorm, ms",
        "syncnorm / naive",
        "syncnorm / `F.batch_norm`",
        "syncnorm / `F.batch_norm`, one process, no group",
    )
    title = f"### CPU time of forward+backward, float32, {RANKS} ranks over gloo, one thread each"
    return f"{title}\n\n{_table(head, rows)}"
