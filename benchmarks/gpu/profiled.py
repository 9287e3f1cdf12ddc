"""What runs under Nsight Compute: each subject once on each case, a marker before every call.

`python -m benchmarks.gpu.profiled`; counters.py starts it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from .cases import DTYPES, LAYOUTS, OPERATIONS, Case, all_cases, make_inputs
from .points import kernels_of
from .subjects import subjects

MARKER = "spin_kernel"  # what torch.cuda._sleep launches, and nobody else

Call = tuple[str, str, str, int]  # case, subject, operation, bytes of x


def run(cases: Sequence[Case], device: str, seconds: float = math.inf) -> list[Call]:
    """The calls in their order. After so many seconds no case is begun."""
    start = time.monotonic()
    sequence: list[Call] = []
    for number, case in enumerate(cases):
        if time.monotonic() - start > seconds:
            print(f"NOT MEASURED for lack of time: {', '.join(c.name for c in cases[number:])}")
            break
        compared = subjects(make_inputs(case, device), kernels_of(device))
        for subject in compared.values():  # loads what it needs
            subject.forward()
            subject.backward()
        _profile(device, on=True)
        for name, subject in compared.items():
            for operation in OPERATIONS:
                if device == "cuda":
                    torch.cuda._sleep(1)  # noqa: SLF001 - the marker
                getattr(subject, operation)()
                sequence.append((case.name, name, operation, case.nbytes))
        _profile(device, on=False)
    return sequence


def _profile(device: str, *, on: bool) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
        (torch.cuda.profiler.start if on else torch.cuda.profiler.stop)()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.profiled")
    parser.add_argument("--sequence", type=Path, required=True, help="where the calls are listed")
    parser.add_argument("--groups", nargs="+", required=True)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    cases = list(all_cases(args.groups, args.dtypes, args.layouts))
    sequence = run(cases, args.device, args.seconds)
    args.sequence.write_text(json.dumps(sequence))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
