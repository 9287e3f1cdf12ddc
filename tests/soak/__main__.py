"""Run the soak test from the command line."""

from __future__ import annotations

import argparse

from syncnorm._cli.machine import machine_facts, machine_line

from .ranks import Plan, run_on_processes, run_on_threads
from .report import format_table, soak_errors


def main() -> int:
    """Run the soak with the arguments of the process; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Train on several ranks for many steps, and check that memory, descriptors and"
        " threads do not grow, that all ranks have the same state, and that it is that of one"
        " process.",
    )
    parser.add_argument("--steps", type=int, default=30_000, help="default: 30000")
    parser.add_argument("--every", type=int, default=1000, help="steps per sample (default: 1000)")
    parser.add_argument("--ranks", type=int, default=4, help="default: 4")
    parser.add_argument("--seed", type=int, default=0, help="of the batches (default: 0)")
    parser.add_argument(
        "--kind",
        choices=("processes", "threads"),
        default="processes",
        help="processes over gloo (the default), or threads of this process",
    )
    args = parser.parse_args()
    if args.every < 1 or args.steps < 6 * args.every:
        parser.error(
            f"--steps: got {args.steps}, expected at least 6 samples of --every {args.every}"
        )
    if args.ranks < 1:
        parser.error(f"--ranks: got {args.ranks}, expected at least 1")
    run = run_on_processes if args.kind == "processes" else run_on_threads
    ranks, alone = run(Plan(args.ranks, args.steps, args.every, args.seed))
    facts = machine_facts()
    print(f"{facts['date'][:10]}, {machine_line(facts)}\n")
    print("\n".join(format_table(args.kind, ranks, alone)))
    errors = soak_errors(ranks, alone)
    print("\n".join(errors) if errors else "\npassed")
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
