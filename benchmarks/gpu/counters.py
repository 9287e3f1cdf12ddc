"""The counters of Nsight Compute for every kernel: time, bytes moved, registers, occupancy."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from .profiled import MARKER, Call

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("/usr/local/cuda/bin/ncu", "/opt/nvidia/nsight-compute/*/ncu")
METRICS = {
    "seconds": "gpu__time_duration.sum",
    "bytes_read": "dram__bytes_read.sum",
    "bytes_written": "dram__bytes_write.sum",
    "dram_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2_hit_percent": "lts__t_sector_hit_rate.pct",
    "occupancy_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "possible_occupancy_percent": "sm__maximum_warps_per_active_cycle_pct",
    "registers": "launch__registers_per_thread",
    "threads": "launch__block_size",
    "blocks": "launch__grid_size",
}
_UNITS = {
    "byte": 1.0,
    "kbyte": 1e3,
    "mbyte": 1e6,
    "gbyte": 1e9,
    # Seconds, by their old names and the present ones.
    **dict.fromkeys(("second", "s"), 1.0),
    **dict.fromkeys(("msecond", "ms"), 1e-3),
    **dict.fromkeys(("usecond", "us"), 1e-6),
    **dict.fromkeys(("nsecond", "ns"), 1e-9),
}


@dataclasses.dataclass(frozen=True)
class KernelCounters:
    """Of one kernel of one call; a metric that ncu did not give is None."""

    case: str
    subject: str
    operation: str
    number: int  # within the call
    name: str
    tensor_bytes: int  # of x
    seconds: float | None = None
    bytes_read: float | None = None
    bytes_written: float | None = None
    dram_percent: float | None = None
    l2_hit_percent: float | None = None
    occupancy_percent: float | None = None
    possible_occupancy_percent: float | None = None
    registers: float | None = None
    threads: float | None = None
    blocks: float | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.case, self.subject, self.operation, self.number

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second that the memory of the device saw."""
        if self.seconds is None or self.bytes_read is None or self.bytes_written is None:
            return None
        return (self.bytes_read + self.bytes_written) / self.seconds


def find_ncu() -> str:
    """Raise RuntimeError where there is none."""
    if found := os.environ.get("NCU") or shutil.which("ncu"):
        return found
    for place in PLACES:
        if found_there := sorted(Path("/").glob(place.removeprefix("/"))):
            return str(found_there[-1])
    raise RuntimeError(
        "ncu (Nsight Compute) was not found, so there are no counters. It comes with the CUDA"
        f" toolkit; expected on PATH, in {' or '.join(PLACES)}, or named by NCU in the environment"
    )


def measure_counters(
    groups: Sequence[str],
    dtypes: Sequence[str],
    layouts: Sequence[str],
    folder: Path,
    seconds: float,
) -> list[KernelCounters]:
    """What ncu prints stays in the folder, as counters.csv. seconds: as of profiled.run."""
    ncu, log = find_ncu(), folder / "counters.csv"
    with tempfile.TemporaryDirectory(prefix="syncnorm-counters-") as scratch:
        listed = Path(scratch) / "sequence.json"
        options = ["--sequence", str(listed), "--seconds", str(seconds)]
        options += ["--groups", *groups, "--dtypes", *dtypes, "--layouts", *layouts]
        program = [sys.executable, "-m", "benchmarks.gpu.profiled", *options]
        done = subprocess.run(
            [*_command(ncu, log.resolve()), *program],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        print(done.stdout, end="", flush=True)
        if done.returncode != 0:
            said = (log.read_text() if log.exists() else "") + done.stdout + done.stderr
            raise RuntimeError(f"ncu ended with status {done.returncode}:\n{said[-2000:]}")
        sequence = [tuple(call) for call in json.loads(listed.read_text())]
    return assigned(read_rows(log.read_text().splitlines()), sequence)


def _command(ncu: str, log: Path) -> list[str]:
    # The clocks are left as they are found; the caches are emptied before each kernel.
    return [
        *(ncu, "--csv", "--page", "raw", "--print-units", "base", "--log-file", str(log)),
        *("--clock-control", "none", "--cache-control", "all", "--profile-from-start", "off"),
        *("--target-processes", "all", "--metrics", ",".join(METRICS.values())),
    ]


Row = dict[str, float | str | None]


def read_rows(lines: Iterable[str]) -> list[Row]:
    """One for each launch, with its name and the METRICS, in seconds, bytes and percent.

    Reads both of ncu's tables: that with a column, and that with a line for each metric.
    """
    table = [line for line in lines if line.startswith('"')]
    rows = list(csv.DictReader(table))
    if not rows or "Kernel Name" not in rows[0]:
        raise RuntimeError("ncu gave no table; expected one with a column 'Kernel Name'")
    if "Metric Name" in rows[0]:
        return _by_launch(rows)
    units, launches = (rows[0], rows[1:]) if not rows[0]["ID"] else ({}, rows)
    return [
        {
            "name": row["Kernel Name"],
            **{key: _number(row.get(metric), units.get(metric)) for key, metric in METRICS.items()},
        }
        for row in launches
    ]


def _by_launch(rows: Sequence[dict[str, str]]) -> list[Row]:
    keys = {metric: key for key, metric in METRICS.items()}
    launches: dict[str, Row] = {}
    for row in rows:
        launch = launches.setdefault(row["ID"], {"name": row["Kernel Name"]})
        if key := keys.get(row["Metric Name"]):
            launch[key] = _number(row["Metric Value"], row.get("Metric Unit"))
    return list(launches.values())


def _number(text: str | None, unit: str | None) -> float | None:
    try:
        return float((text or "").replace(",", "")) * _UNITS.get((unit or "").lower(), 1.0)
    except ValueError:  # such as "n/a"
        return None


def assigned(rows: Sequence[Row], sequence: Sequence[Call]) -> list[KernelCounters]:
    """The kernels between two markers are those of a call."""
    found: list[KernelCounters] = []
    call, number = -1, 0
    for row in rows:
        values = dict(row)
        name = str(values.pop("name"))
        if MARKER in name:
            call, number = call + 1, 0
        elif 0 <= call < len(sequence):
            case, subject, operation, nbytes = sequence[call]
            told = {key: value for key, value in values.items() if not isinstance(value, str)}
            place = (case, subject, operation, number)
            found.append(KernelCounters(*place, short(name), nbytes, **told))
            number += 1
    if call + 1 != len(sequence):
        raise RuntimeError(f"ncu saw {call + 1} markers, expected {len(sequence)}")
    return found


def short(name: str) -> str:
    """Without namespaces, template and function arguments."""
    plain = name.replace("(anonymous namespace)::", "").replace("<unnamed>::", "")
    head = re.split(r"[<(]", plain, maxsplit=1)[0]
    return head.split()[-1].rpartition("::")[2] if head.split() else plain[:60]
