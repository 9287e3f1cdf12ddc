"""Run the `bench` command: measure, print the table, write the plot and the JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from syncnorm._cli.machine import machine_facts, machine_line
from syncnorm._cli.progress import ProgressLine

from . import allocator
from .bandwidth import copy_bandwidth
from .config import BenchConfig, parse_args
from .overhead import measure_overhead
from .plot import write_plot
from .points import measure_points
from .report import table_header, table_row, table_summary
from .results import Results, write_json


def run(argv: Sequence[str]) -> int:
    """Run the command with the arguments `argv`; return the exit code."""
    config = parse_args(argv)
    if not config.default_malloc and allocator.has_glibc() and not allocator.reuses_buffers():
        return allocator.rerun_with_reuse(argv)
    config.output.mkdir(parents=True, exist_ok=True)
    results = _measure(config)
    plot_path = config.output / "ratios.png"
    json_path = config.output / "results.json"
    write_plot(results, plot_path)
    write_json(results, json_path)
    print(f"\n{table_summary(results)}\n")
    print(f"{results.seconds:.0f} s in total; plot: {plot_path}; numbers: {json_path}")
    return 0


def _measure(config: BenchConfig) -> Results:
    start = time.perf_counter()
    facts = machine_facts()
    print(f"syncnorm bench: {machine_line(facts)}")
    print(f"path: {config.path}; allocator: {allocator.describe()}", flush=True)
    line = ProgressLine()
    bandwidths = {}
    for threads in config.threads:
        line.update(f"copy bandwidth, {threads} thr")
        torch.set_num_threads(threads)
        bandwidths[threads] = copy_bandwidth(config.quick)
    line.update("overhead of one call")
    overhead = measure_overhead(config.repeat)
    for text in table_header().splitlines():
        line.update(text, keep=True)
    points = []
    for point in measure_points(config, bandwidths, line.update):
        points.append(point)
        line.update(table_row(point), keep=True)
    line.close()
    return Results(
        config=config,
        machine=facts,
        allocator=allocator.describe(),
        copy_bandwidth=bandwidths,
        points=points,
        overhead=overhead,
        seconds=time.perf_counter() - start,
    )
