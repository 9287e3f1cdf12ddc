"""Run the benchmark from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from syncnorm import InvalidArgumentError
from syncnorm._cli.machine import machine_facts

from .cases import TIMED_SHAPES
from .ranks import measure_on_ranks
from .report import Results, format_markdown, replace_tables, split_document


def main() -> int:
    """Run the benchmark with the arguments of the process; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torch_layer",
        description="Compare torch.nn.SyncBatchNorm and syncnorm's layer in one run, on the CPU.",
    )
    parser.add_argument("--markdown", type=Path, help="replace the tables in this document")
    parser.add_argument("--repeat", type=int, default=21, help="rounds per timing (default: 21)")
    parser.add_argument("--quick", action="store_true", help="one small shape; takes seconds")
    args = parser.parse_args()
    if args.markdown is not None:
        try:
            split_document(args.markdown)  # fails now rather than after the measurements
        except InvalidArgumentError as error:
            parser.error(str(error))
    shapes = TIMED_SHAPES[-1:] if args.quick else TIMED_SHAPES
    text = format_markdown(Results(machine_facts(), measure_on_ranks(shapes, args.repeat)))
    print(text)
    if args.markdown is not None:
        replace_tables(args.markdown, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
