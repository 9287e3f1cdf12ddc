"""`python -m syncnorm info`: describe this machine and process, and check the numbers on it.

This process imports no framework: a broken one ends its own process only (probe.py, worker.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from .check import run_checks
from .report import collect, text


def main(argv: Sequence[str]) -> int:
    """Run the command with the arguments `argv`; return the exit code.

    Returns:
        0; with --check 1 if a check has failed or none could run.
    """
    parser = argparse.ArgumentParser(
        prog="python -m syncnorm info", description="Print capabilities, versions and settings."
    )
    parser.add_argument("--json", action="store_true", help="print JSON: docs/info.md has the keys")
    parser.add_argument(
        "--check",
        action="store_true",
        help="train one step on two ranks over every backend found; compare with float64",
    )
    arguments = parser.parse_args(argv)
    found = collect()
    if arguments.check:
        found["check"] = run_checks(found)
    print(json.dumps(found, indent=2) if arguments.json else text(found))
    states = {check["status"] for check in found.get("check", [{"status": "passed"}])}
    return 1 if "failed" in states or "passed" not in states else 0
