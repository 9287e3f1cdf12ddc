"""One run of the benchmark: measures the parts in order and writes the results after each."""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from collections.abc import Sequence
from pathlib import Path

from . import results as kept
from .cases import Case, all_cases
from .clock import Clock, clock_for, copy_bandwidth
from .counters import measure_counters
from .facts import facts, line
from .graphs import SHAPES, measure_graphs
from .host import measure_host
from .phases import PhaseTime
from .points import COMPILED, KERNELS, Point, measure_case, with_compiled
from .rehearsal import STAND_INS
from .report import markdown
from .resnet50 import RESNET50, TINY
from .results import Results
from .training import measure_training, settings

COPY_BYTES = {"cuda": 2 << 30, "cpu": 16 << 20}


class Run:
    """args: of the command line. Results are in its folder after each part, and sooner."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._rehearsed = args.device != "cuda"
        self._start = time.monotonic()
        self._file = args.output / "benchmark.json"
        self.results = Results(facts(args.device))
        self._earlier = Results(self.results.facts)
        if args.add and self._file.exists():
            self._earlier = kept.read(self._file)
        self._save()  # refuses the results of another machine
        print(line(self.results.facts), flush=True)

    def measure(self, part: str) -> None:
        start = time.monotonic()
        getattr(self, f"_{part}")()
        self._note(part, time.monotonic() - start)

    def failed(self, part: str, error: Exception) -> None:
        told = str(error).partition("\n")[0]
        self.results.failures.append(f"{part}: {type(error).__name__}: {told}")
        self._save()

    def finish(self) -> Results:
        """With what was measured before, and all files written."""
        results = self._save()
        write_reports(results, self._args.output)
        return results

    def _note(self, part: str, seconds: float) -> None:
        date = self.results.facts["date"]
        arguments = {**vars(self._args), "output": str(self._args.output)}
        note = {"date": date, "parts": [part], "settings": arguments, "seconds": seconds}
        self.results.runs.append(note)
        self._save()

    def _save(self) -> Results:
        results = kept.together(self._earlier, self.results)
        kept.write_json(results, self._file)
        return results

    @property
    def _deadline(self) -> float:
        seconds = self._args.seconds
        return self._start + seconds if seconds else math.inf

    def _kernels(self) -> None:
        args, results = self._args, self.results
        clock = clock_for(args.device)
        speed = copy_bandwidth(clock, args.device, COPY_BYTES[args.device], args.repeat)
        results.copy_bandwidth = speed
        print(f"copy from device to device: {speed / 1e9:.0f} GB/s", flush=True)
        if self._rehearsed:
            print(STAND_INS, flush=True)
        cases = list(all_cases(args.groups, args.dtypes, args.layouts))
        for number, case in enumerate(cases):
            if time.monotonic() > self._deadline:
                print(f"NOT MEASURED for lack of time: {', '.join(c.name for c in cases[number:])}")
                break
            measured = list(measure_case(case, args.device, clock, args.repeat, speed))
            points = [each for each in measured if isinstance(each, Point)]
            results.points += points
            results.phases += [each for each in measured if isinstance(each, PhaseTime)]
            self._save()
            print(_progress(case.name, points), flush=True)
        self._compiled(cases[: args.compiled], clock)

    def _compiled(self, cases: Sequence[Case], clock: Clock) -> None:
        """Add compiled F.batch_norm in the time that is left: a case takes seconds to compile."""
        args, results = self._args, self.results
        for number, case in enumerate(cases):
            if time.monotonic() > self._deadline:
                print(f"NOT COMPILED for lack of time: {len(cases) - number} of {len(cases)} cases")
                break
            points = with_compiled(results.points, case, args.device, clock, args.repeat)
            results.points = points
            self._save()
            print(_progress(case.name, [p for p in points if p.case == case]), flush=True)

    def _host(self) -> None:
        self.results.host = measure_host(self._args.device)

    def _graphs(self) -> None:
        shapes = SHAPES[:1] if self._rehearsed else SHAPES
        rounds = 1 if self._rehearsed else self._args.repeat
        self.results.graphs = measure_graphs(self._args.device, shapes, rounds)

    def _training(self) -> None:
        size = TINY if self._rehearsed else RESNET50
        rounds = max(1, self._args.repeat // 4)
        chosen = settings(self._args.images)
        for found in measure_training(chosen, size, self._args.device, rounds, self._deadline):
            self.results.training.append(found)
            self._save()

    def _counters(self) -> None:
        args = self._args
        self.results.counters = measure_counters(
            args.groups or ["counters"],
            args.dtypes,
            args.layouts,
            args.output,
            self._deadline - time.monotonic(),
        )


def _progress(name: str, measured: list[Point]) -> str:
    cold = [point for point in measured if point.cache == "cold"]
    parts = (
        f"{point.operation} {100 * point.copy_fraction('phases'):.0f} % of the copy, "
        + ", ".join(
            f"{point.speedup('phases', over):.2f} x {over}"
            for over in (KERNELS, COMPILED)
            if over in point.seconds
        )
        for point in cold
    )
    return f"{name}: {'; '.join(parts)}"


def write_reports(results: Results, folder: Path) -> None:
    """benchmark.md, and where there is matplotlib benchmark.png and training.png."""
    (folder / "benchmark.md").write_text(markdown(results))
    if not importlib.util.find_spec("matplotlib"):
        print("no plot: matplotlib is missing")
        return
    from .plot import write_plot, write_training_plot

    if results.points:
        write_plot(results, folder / "benchmark.png")
    if any(training.samples for training in results.training):
        write_training_plot(results, folder / "training.png")
