"""The benchmark's command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from syncnorm._cli.machine import machine_facts

from .cases import TIMED_SHAPES
from .ranks import measure_on_ranks
from .report import Results, markdown, put_into


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torch_layer",
        description="torch.nn.SyncBatchNorm and this library's layer in one run, on the CPU.",
    )
    parser.add_argument("--markdown", type=Path, help="put the tables into this document")
    parser.add_argument("--repeat", type=int, default=21, help="rounds of each timing (21)")
    parser.add_argument("--quick", action="store_true", help="one small shape: a few seconds")
    args = parser.parse_args()
    shapes = TIMED_SHAPES[-1:] if args.quick else TIMED_SHAPES
    text = markdown(Results(machine_facts(), measure_on_ranks(shapes, args.repeat)))
    print(text)
    if args.markdown is not None:
        put_into(args.markdown, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
