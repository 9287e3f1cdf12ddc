"""The benchmark's command line."""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

import torch

from .cases import DTYPES, LAYOUTS, all_cases
from .clock import clock_for, copy_bandwidth
from .facts import facts, line
from .points import Point, measure_case, measure_host
from .report import Results, write
from .targets import targets

COPY_BYTES = {"cuda": 2 << 30, "cpu": 16 << 20}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Time syncbn on a GPU beside torch's kernels of SyncBatchNorm, F.batch_norm and"
        " a copy from device to device.",
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("bench-results"), help="folder (bench-results)")
    add(
        "--groups",
        nargs="+",
        help="of shapes: resnet50-<images>, others, large, tiny (resnet50-32 resnet50-256 others"
        " large)",
    )
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    add("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    add("--repeat", type=int, help="timings of each call (31)")
    add("--quick", action="store_true", help="no resnet50-256, fewer timings: two minutes")
    add(
        "--seconds", type=float, help="leave out the cases for which this is not enough, and say so"
    )
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; a rehearsal is had with --device cpu")
    if args.groups is None:
        args.groups = ["resnet50-32", "others", "large"]
        if not args.quick:
            args.groups.insert(1, "resnet50-256")
    args.repeat = args.repeat or (11 if args.quick else 31)
    return args


def measure(args: argparse.Namespace) -> Results:
    start = time.monotonic()
    found = facts(args.device)
    print(line(found), flush=True)
    clock = clock_for(args.device)
    speed = copy_bandwidth(clock, args.device, COPY_BYTES[args.device], args.repeat)
    print(f"copy from device to device: {speed / 1e9:.0f} GB/s", flush=True)
    host = measure_host(args.device, calls=100)
    cases = list(all_cases(args.groups, args.dtypes, args.layouts))
    points: list[Point] = []
    for number, case in enumerate(cases):
        if args.seconds and time.monotonic() - start > args.seconds:
            print(f"NOT MEASURED for lack of time: {', '.join(c.name for c in cases[number:])}")
            break
        measured = list(measure_case(case, args.device, clock, args.repeat, speed))
        points += measured
        print(_progress(case.name, measured), flush=True)
    settings = {**vars(args), "output": str(args.output)}
    return Results(found, settings, speed, points, host, time.monotonic() - start)


def _progress(name: str, measured: list[Point]) -> str:
    cold = [point for point in measured if point.cache == "cold"]
    parts = (
        f"{point.operation} {100 * point.copy_fraction('phases'):.0f} % of the copy,"
        f" {point.speedup('phases', 'torch kernels'):.2f} x torch's kernels"
        for point in cold
    )
    return f"{name}: {'; '.join(parts)}"


def main() -> int:
    args = parse()
    args.output.mkdir(parents=True, exist_ok=True)
    results = measure(args)
    write(results, args.output)
    if importlib.util.find_spec("matplotlib"):
        from .plot import write_plot

        write_plot(results, args.output / "benchmark.png")
    else:
        print("no plot: matplotlib is missing")
    for target in targets(results.points):
        reached = "reached" if target.reached else "NOT reached"
        print(f"{reached}: {target.name}: {target.got}, wanted {target.wanted}")
    print(f"{len(results.points)} measurements in {results.seconds:.0f} s: {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
