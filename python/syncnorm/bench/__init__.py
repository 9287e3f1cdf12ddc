"""`python -m syncnorm bench`: the layer beside torch's own batch norm, in one run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from syncnorm._cli.extras import missing_packages

_NEEDED = {"torch": "torch", "numpy": "numpy", "matplotlib": "matplotlib"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark with the command line `argv`; returns the exit code."""
    complaint = missing_packages(_NEEDED, "bench")
    if complaint is not None:
        print(complaint, file=sys.stderr)
        return 1
    from .command import run

    return run(sys.argv[1:] if argv is None else argv)
