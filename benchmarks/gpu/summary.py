"""The few tables for the README, between two marks, from results that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .facts import line
from .points import CUDNN, KERNELS, Point
from .report import grouped
from .results import Results
from .tables import by_setting, gigabytes, table
from .targets import LARGE_BYTES, mean_speedup
from .training import AUTOCAST, VARIANTS, Training

BEGIN = "<!-- From here on: made by python -m benchmarks.gpu.publish -->"
END = "<!-- Up to here. -->"
_ORDER = {"channels_first": "NCHW", "channels_last": "NHWC"}


def put_into(document: Path, text: str) -> None:
    """Replace what stands between the two marks of the document."""
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(
            f"{document}: the tables go between two lines, of which there is none or one; put"
            f" them where the tables are wanted: '{BEGIN}' and '{END}'"
        )
    document.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def summary(results: Results, place: str) -> str:
    """place: of the results, as the document names it. ValueError for those of a rehearsal."""
    if results.facts.get("device") != "cuda":
        raise ValueError("these are results of a rehearsal: its numbers mean nothing")
    parts = [f"{line(results.facts)}. All of it: [{place}]({place}/benchmark.md)."]
    layers = [p for p in results.points if p.cache == "cold" and p.case.group == "resnet50-32"]
    if layers:
        parts += [_layers_text(), _layers(layers)]
    large = [p for p in results.points if p.cache == "cold" and p.case.nbytes >= LARGE_BYTES]
    if large and results.copy_bandwidth:
        parts.append(_large(large, results.copy_bandwidth))
    if results.points:
        parts.append(f"![Bandwidth and speed-up of every shape]({place}/benchmark.png)")
    if results.training:
        parts += [_training_text(), _training(results.training)]
    return "\n\n".join(parts) + "\n"


def _layers_text() -> str:
    return (
        "The 53 batch normalizations of ResNet-50 at 32 images, caches cold: how many times as"
        " fast as torch's kernels of SyncBatchNorm (without the exchange), and in one call as"
        " `F.batch_norm`; geometric mean, and the slowest layer:"
    )


def _layers(points: Sequence[Point]) -> str:
    rows = []
    for (_, dtype, layout, _, operation), chosen in grouped(points).items():
        cells = [
            f"{mean_speedup(chosen, *pair):.2f}, {min(p.speedup(*pair) for p in chosen):.2f}"
            for pair in (("phases", KERNELS), ("one call", CUDNN))
        ]
        rows.append((f"{dtype}, {_ORDER[layout]}", operation, *cells))
    return table(("", "", "torch's kernels / phases", "`F.batch_norm` / one call"), rows)


def _large(points: Sequence[Point], copy: float) -> str:
    told = []
    for operation in ("forward", "backward"):
        shares = [100 * p.copy_fraction("phases") for p in points if p.operation == operation]
        if shares:
            told.append(f"{operation} {min(shares):.0f} to {max(shares):.0f} %")
    return (
        f"Bandwidth on tensors of 200 MB and more, of that of a copy ({copy / 1e9:.0f} GB/s, read"
        f" and written): {', '.join(told)}."
    )


def _training_text() -> str:
    return (
        "A training step of ResNet-50 on random images, in ms, and its peak memory in GB, in a"
        " group of one; *exchanging*: over NCCL nevertheless, as in a larger group, which is how"
        " torch's layer is run here:"
    )


def _training(trainings: Iterable[Training]) -> str:
    rows = []
    for setting, of_setting in by_setting(trainings).items():
        cells = [_step(of_setting.get(name)) for name in VARIANTS]
        dtype = "bfloat16" if setting.dtype == AUTOCAST else setting.dtype
        rows.append((f"{setting.images}, {dtype}, {_ORDER[setting.layout]}", *cells))
    return table(("images", *VARIANTS), rows)


def _step(training: Training | None) -> str:
    if training is None or not training.samples:
        return "-"
    return f"{1e3 * training.seconds:.1f}, {gigabytes(training.peak_bytes)}"
