"""The demo from its command line to its exit code."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from syncnorm._cli.machine import machine_facts, machine_line
from syncnorm._cli.progress import ProgressLine
from syncnorm._facts import usable_cores

from .data import Digits, load_digits
from .messages import Difference, Finished, Progress
from .plot import write_curves
from .ranks import RankFailure, messages_of_ranks
from .report import Results, table, write_json
from .screen import Screen
from .settings import Settings, parse

_INTERRUPTED = 130


def run(argv: Sequence[str]) -> int:
    settings = parse(argv)
    settings.output.mkdir(parents=True, exist_ok=True)
    digits = load_digits(settings.seed)
    _announce(settings, digits)
    line = ProgressLine()
    try:
        results = _train_all(settings, digits, Screen(line))
    except RankFailure as failure:
        line.close()
        print(f"syncnorm demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        line.close()
        print("syncnorm demo: interrupted", file=sys.stderr)
        return _INTERRUPTED
    _conclude(results)
    return 0


def _announce(settings: Settings, digits: Digits) -> None:
    samples = len(digits.train_labels)
    kind = "GPUs, nccl" if settings.device == "cuda" else "CPU processes, gloo"
    batch = settings.batch_per_rank
    print(
        f"syncnorm demo: {samples} handwritten digits to train, {len(digits.test_labels)} to test\n"
        f"{settings.ranks} ranks ({kind}), {batch} samples per rank and step, "
        f"{settings.total_steps(samples)} steps. In the last BatchNorm, behind a linear layer,\n"
        f"a rank has {batch} values per channel to normalize with, the whole batch "
        f"{settings.whole_batch}.",
        flush=True,
    )
    if settings.device == "cpu" and settings.ranks > usable_cores():
        print(
            f"note: {settings.ranks} ranks on {usable_cores()} cores; gloo is very slow where "
            "ranks have to share a core",
            flush=True,
        )


def _train_all(settings: Settings, digits: Digits, screen: Screen) -> Results:
    start = time.perf_counter()
    runs: list[Finished] = []
    differences: list[Difference] = []
    for message in messages_of_ranks(settings, digits):
        if isinstance(message, Progress):
            screen.show(message)
        elif isinstance(message, Finished):
            runs.append(message)
        elif isinstance(message, Difference):
            differences.append(message)
    return Results(
        settings=settings,
        machine=machine_facts(),
        train_samples=len(digits.train_labels),
        test_samples=len(digits.test_labels),
        runs=runs,
        differences=differences,
        seconds=time.perf_counter() - start,
    )


def _conclude(results: Results) -> None:
    curves = results.settings.output / "curves.png"
    numbers = results.settings.output / "results.json"
    write_curves(results, curves)
    write_json(results, numbers)
    print(f"\n{table(results)}\n")
    print(machine_line(results.machine))
    print(f"{results.seconds:.0f} s in all; curves: {curves}; numbers: {numbers}")
