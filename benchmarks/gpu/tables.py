"""The tables of layers, graphs, trainings and counters, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .cases import case_of
from .counters import KernelCounters
from .graphs import GraphTime
from .host import HostTime
from .model import predicted_seconds
from .phases import phase_of
from .results import Results
from .training import Setting, Training


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def microseconds(seconds: float | None, none: str = "-") -> str:
    return none if seconds is None else f"{1e6 * seconds:.1f}"


def host_table(times: Sequence[HostTime]) -> str:
    names = list(dict.fromkeys(name for time in times for name in time.seconds))
    rows = [
        (
            name,
            *(microseconds(time.seconds.get(name), "waits for the device") for time in times),
        )
        for name in names
    ]
    head = ("", *(f"{time.operation}, device {time.state}" for time in times))
    return table(head, rows)


def graphs_table(times: Sequence[GraphTime]) -> str:
    rows = [
        (
            time.case,
            time.layer,
            microseconds(time.eager),
            microseconds(time.replay) if time.replay else f"none: {time.error}",
            f"{time.eager / time.replay:.2f}" if time.replay else "-",
        )
        for time in sorted(times, key=lambda time: time.case)
    ]
    return table(("x", "layer", "called, us", "replayed, us", "called / replayed"), rows)


def by_setting(trainings: Iterable[Training]) -> dict[Setting, dict[str, Training]]:
    settings: dict[Setting, dict[str, Training]] = {}
    for training in trainings:
        settings.setdefault(training.setting, {})[training.variant] = training
    return settings


def gigabytes(nbytes: int | None) -> str:
    return "-" if nbytes is None else f"{nbytes / 1e9:.2f}"


def training_table(trainings: Sequence[Training]) -> str:
    rows: list[Sequence[object]] = []
    for training in trainings:
        start = (training.setting.name, training.variant)
        if training.samples:
            times = (f"{1e3 * each:.2f}" for each in (min(training.samples), max(training.samples)))
            told = [f"{1e3 * training.seconds:.2f}", *times, gigabytes(training.peak_bytes)]
        else:
            told = [f"none: {training.error}", "-", "-", "-"]
        rows.append((*start, *told))
    head = ("", "normalization", "step, ms", "least", "most", "peak memory, GB")
    return table(head, rows)


def counters_table(results: Results) -> str:
    copy = results.copy_bandwidth
    rows = []
    for each in results.counters:
        of_copy = None if not copy or each.bandwidth is None else 100 * each.bandwidth / copy
        rows.append(
            (
                each.case,
                each.subject,
                each.operation,
                f"`{each.name}`",
                microseconds(each.seconds),
                microseconds(_predicted(each, copy)),
                _passes(each.bytes_read, each.tensor_bytes),
                _passes(each.bytes_written, each.tensor_bytes),
                _told(None if each.bandwidth is None else each.bandwidth / 1e9),
                _told(of_copy),
                _told(each.l2_hit_percent),
                _told(each.registers),
                f"{_told(each.blocks)} x {_told(each.threads)}",
                f"{_told(each.occupancy_percent)} of {_told(each.possible_occupancy_percent)}",
            )
        )
    head = (
        *("case", "subject", "operation", "kernel", "us", "model, us"),
        *("read / x", "written / x", "GB/s"),
        *("% of copy", "L2 hits, %", "registers", "blocks x threads", "occupancy, %"),
    )
    return table(head, rows)


def _predicted(counters: KernelCounters, copy_bandwidth: float | None) -> float | None:
    """Return the model's time for a kernel of syncnorm."""
    phase = phase_of(counters.operation, counters.name)
    ours = counters.subject in {"phases", "one call"}
    if not ours or phase is None or copy_bandwidth is None:
        return None
    return predicted_seconds(case_of(counters.case), phase, copy_bandwidth)


def _passes(nbytes: float | None, of: int) -> str:
    return "-" if nbytes is None else f"{nbytes / of:.2f}"


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
