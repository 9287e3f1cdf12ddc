"""The tables, in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from syncnorm._cli.machine import machine_line

from .cases import COUNTED, HOST_SHAPE, MEMORY_SHAPE, OPERATIONS, RANKS

BEGIN = "<!-- From here on: made by python -m benchmarks.torch_layer -->"
END = "<!-- Up to here. -->"


@dataclasses.dataclass(frozen=True)
class Results:
    machine: dict[str, Any]
    ranks: dict[str, Any]  # from ranks.measure_on_ranks


def markdown(results: Results) -> str:
    date = results.machine["date"].partition("T")[0]
    parts = [
        f"{machine_line(results.machine)}; {date}.",
        _counts(results.ranks["counts"]),
        _operations(results.ranks["counts"][COUNTED[0].name]),
        _memory(results.ranks),
        _host(results.ranks["host"]),
        _seconds(results.ranks),
    ]
    return "\n\n".join(parts) + "\n"


def put_into(document: Path, text: str) -> None:
    """Replace what stands between the two marks of the document."""
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{document}: expected the lines '{BEGIN}' and '{END}', found not both")
    document.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _counts(counts: dict[str, Any]) -> str:
    rows = []
    for name, of_layers in counts.items():
        for operation in OPERATIONS:
            torch, ours = of_layers["torch"][operation], of_layers["syncnorm"][operation]
            rows.append(
                (
                    name,
                    operation,
                    f"{len(torch.operations)} / {len(ours.operations)}",
                    f"{torch.launches} / {ours.launches}",
                    f"{torch.collectives} / {ours.collectives}",
                    f"{torch.waits} / {ours.waits}",
                )
            )
    head = (
        "torch / syncnorm",
        "",
        "operations dispatched",
        "launches on a device",
        "collectives",
        "waits of the host for the device",
    )
    return f"### One call, counted, {RANKS} ranks\n\n{_table(head, rows)}"


def _operations(of_layers: dict[str, Any]) -> str:
    lines = ["The operations of forward and backward in float32, in their order:", ""]
    for name, counts in of_layers.items():
        operations = ", ".join(f"`{each}`" for each in counts["forward+backward"].operations)
        lines.append(f"- {name}: {operations}")
    return "\n".join(lines)


def _memory(ranks: dict[str, Any]) -> str:
    rows = []
    for name, of_layers in ranks["memory"].items():
        torch, ours = of_layers["torch"], of_layers["syncnorm"]
        rows.append((name, *(f"{torch[key]:.2f} / {ours[key]:.2f}" for key in torch)))
    saved = " / ".join(f"{ranks['saved'][name]:.0f}" for name in ("torch", "syncnorm"))
    return (
        f"### Memory, over that of x ({_size(MEMORY_SHAPE)}, float32)\n\n"
        f"{_table(('torch / syncnorm', 'kept', 'peak of forward', 'peak of backward'), rows)}\n\n"
        f"Saved for backward beside x and weight: {saved} bytes per channel."
    )


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.0f}"


def _host(host: dict[str, dict[str, float]]) -> str:
    rows = [
        (
            operation,
            _microseconds(seconds["torch"]),
            _microseconds(seconds["syncnorm"]),
            f"{seconds['syncnorm'] / seconds['torch']:.2f}",
        )
        for operation, seconds in host.items()
    ]
    head = ("", "torch without its kernels, us", "syncnorm, us", "syncnorm / torch")
    title = f"### Time of the host per call ({_size(HOST_SHAPE)}), without the exchange"
    return f"{title}\n\n{_table(head, rows)}"


def _seconds(ranks: dict[str, Any]) -> str:
    rows = []
    for shape, seconds in ranks["seconds"].items():
        local, naive, ours = (seconds[name] for name in ("local", "naive", "syncnorm"))
        alone = ranks["alone"][shape]
        rows.append(
            (
                _size(shape),
                f"{1e3 * ours:.2f}",
                f"{ours / naive:.2f}",
                f"{ours / local:.2f}",
                f"{alone['syncnorm'] / alone['local']:.2f}",
            )
        )
    head = (
        "x on each rank",
        "syncnorm, ms",
        "syncnorm / naive",
        "syncnorm / `F.batch_norm`",
        "the same in one process without a group",
    )
    title = f"### CPU time of forward+backward, float32, {RANKS} ranks over gloo, a thread each"
    return f"{title}\n\n{_table(head, rows)}"
