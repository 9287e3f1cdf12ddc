"""Run the `demo` command: train, print the tables, write the plot and the JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from syncnorm._cli.machine import machine_facts, machine_line
from syncnorm._cli.progress import ProgressLine
from syncnorm._facts import usable_cores

from .config import DemoConfig, parse_args
from .data import Digits, load_digits
from .messages import Difference, Progress, RunResult
from .plot import write_plot
from .progress_display import ProgressDisplay
from .ranks import RankFailure, run_ranks
from .report import tables
from .results import Results, write_json

_INTERRUPTED = 130


def run(argv: Sequence[str]) -> int:
    """Run the command with the arguments `argv`; return the exit code."""
    config = parse_args(argv)
    config.output.mkdir(parents=True, exist_ok=True)
    digits = load_digits(config.seed)
    _print_introduction(config, digits)
    line = ProgressLine()
    try:
        results = _train_all(config, digits, ProgressDisplay(line))
    except RankFailure as failure:
        line.close()
        print(f"syncnorm demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        line.close()
        print("syncnorm demo: interrupted", file=sys.stderr)
        return _INTERRUPTED
    _write_results(results)
    return 0


def _print_introduction(config: DemoConfig, digits: Digits) -> None:
    samples = len(digits.train_labels)
    kind = "GPUs, nccl" if config.device == "cuda" else "CPU processes, gloo"
    batch = config.batch_per_rank
    print(
        f"syncnorm demo: {samples} handwritten digits to train, {len(digits.test_labels)} to test\n"
        f"{config.ranks} ranks ({kind}), {batch} samples per rank and step, "
        f"{config.total_steps(samples)} steps. The last BatchNorm follows a linear layer:\n"
        f"a rank has {batch} values per channel there, the whole batch {config.whole_batch}.",
        flush=True,
    )
    if config.device == "cpu" and config.ranks > usable_cores():
        print(
            f"note: {config.ranks} ranks on {usable_cores()} cores; gloo is very slow when ranks "
            "share a core",
            flush=True,
        )


def _train_all(config: DemoConfig, digits: Digits, display: ProgressDisplay) -> Results:
    start = time.perf_counter()
    runs: list[RunResult] = []
    differences: list[Difference] = []
    for message in run_ranks(config, digits):
        if isinstance(message, Progress):
            display.show(message)
        elif isinstance(message, RunResult):
            runs.append(message)
        elif isinstance(message, Difference):
            differences.append(message)
    return Results(
        config=config,
        machine=machine_facts(),
        train_samples=len(digits.train_labels),
        test_samples=len(digits.test_labels),
        runs=runs,
        differences=differences,
        seconds=time.perf_counter() - start,
    )


def _write_results(results: Results) -> None:
    plot_path = results.config.output / "curves.png"
    json_path = results.config.output / "results.json"
    write_plot(results, plot_path)
    write_json(results, json_path)
    print(f"\n{tables(results)}\n")
    print(machine_line(results.machine))
    print(f"{results.seconds:.0f} s in total; curves: {plot_path}; numbers: {json_path}")
