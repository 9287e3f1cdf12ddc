"""`python -m syncnorm demo`: what synchronized statistics are worth, on real data, on any machine.

Trains one small network on handwritten digits three times, from the same parameters on the same
samples in the same order: with local BatchNorm on every rank, with syncnorm, and as a single
process on the whole batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from syncnorm._cli.extras import missing_packages

_NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo with the command line `argv`; returns the exit code."""
    complaint = missing_packages(_NEEDED, "demo")
    if complaint is not None:
        print(complaint, file=sys.stderr)
        return 1
    from .command import run

    return run(sys.argv[1:] if argv is None else argv)
