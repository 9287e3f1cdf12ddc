"""The benchmark from its command line to its exit code."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from syncnorm._cli.machine import machine_facts, machine_line
from syncnorm._cli.progress import ProgressLine

from . import allocator
from .bandwidth import copy_bandwidth
from .overhead import measure_overhead
from .plot import write_ratios
from .points import measure_points
from .report import Results, header, row, summary, write_json
from .settings import Settings, parse


def run(argv: Sequence[str]) -> int:
    settings = parse(argv)
    if not settings.default_malloc and allocator.has_glibc() and not allocator.reuse_is_set():
        return allocator.run_again_with_reuse(argv)
    settings.output.mkdir(parents=True, exist_ok=True)
    results = _measure(settings)
    picture = settings.output / "ratios.png"
    numbers = settings.output / "results.json"
    write_ratios(results, picture)
    write_json(results, numbers)
    print(f"\n{summary(results)}\n")
    print(f"{results.seconds:.0f} s in all; plot: {picture}; numbers: {numbers}")
    return 0


def _measure(settings: Settings) -> Results:
    start = time.perf_counter()
    facts = machine_facts()
    print(f"syncnorm bench: {machine_line(facts)}")
    print(f"path: {settings.path}; allocator: {allocator.setting()}", flush=True)
    line = ProgressLine()
    speeds = {}
    for threads in settings.threads:
        line.update(f"copy speed, {threads} thr")
        torch.set_num_threads(threads)
        speeds[threads] = copy_bandwidth(settings.quick)
    line.update("overhead of one call")
    overhead = measure_overhead(settings.repeat)
    for text in header().splitlines():
        line.update(text, keep=True)
    points = []
    for point in measure_points(settings, speeds, line.update):
        points.append(point)
        line.update(row(point), keep=True)
    line.close()
    return Results(
        settings=settings,
        machine=facts,
        allocator=allocator.setting(),
        copy_bandwidth=speeds,
        points=points,
        overhead=overhead,
        seconds=time.perf_counter() - start,
    )
