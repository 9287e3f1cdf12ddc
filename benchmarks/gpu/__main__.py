"""The benchmark's command line."""

from __future__ import annotations

import argparse
import traceback
from pathlib import Path

import torch

from .cases import DTYPES, LAYOUTS
from .results import PARTS
from .run import Run
from .targets import targets
from .training import IMAGES


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Time syncnorm on a GPU beside torch's SyncBatchNorm kernels, F.batch_norm,"
        " eager and compiled, and a copy from device to device; layers; training steps of"
        " ResNet-50.",
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("bench-results"), help="folder (bench-results)")
    add(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS[:-1],
        help="all but counters, which need Nsight Compute",
    )
    add("--add", action="store_true", help="to the benchmark.json that is in the folder")
    add(
        "--groups",
        nargs="+",
        help="of shapes: resnet50-<images>, others, large, counters, tiny (resnet50-32 others large"
        " resnet50-256; for the counters: counters)",
    )
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    add("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    add("--images", nargs="+", type=int, help="of a training step (32 256)")
    add("--repeat", type=int, help="timings of each call (31)")
    add("--quick", action="store_true", help="no resnet50-256, fewer timings: two minutes")
    add(
        "--seconds", type=float, help="leave out the cases for which this is not enough, and say so"
    )
    add(
        "--compiled",
        type=int,
        metavar="CASES",
        help="compile F.batch_norm for so many cases, after the others are measured (all)",
    )
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; a rehearsal is had with --device cpu")
    if args.groups is None and "kernels" in args.parts:
        args.groups = ["resnet50-32", "others", "large"]
        if not args.quick:
            args.groups.append("resnet50-256")  # last, should the time not be enough
    args.repeat = args.repeat or (11 if args.quick else 31)
    args.images = args.images or (list(IMAGES) if args.device == "cuda" else [2])
    return args


def main() -> int:
    args = parse()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.device == "cpu":
        torch.set_num_threads(1)
    run = Run(args)
    for part in args.parts:
        try:
            run.measure(part)
        except Exception as error:  # noqa: BLE001 - the other parts are worth having
            traceback.print_exc()
            run.failed(part, error)
    results = run.finish()
    for target in targets(results.points):
        reached = "reached" if target.reached else "NOT reached"
        print(f"{reached}: {target.name}: {target.got}, wanted {target.wanted}")
    for failure in run.results.failures:
        print(f"FAILED: {failure}")
    print(f"{', '.join(args.parts)}: {args.output}")
    return 1 if run.results.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
