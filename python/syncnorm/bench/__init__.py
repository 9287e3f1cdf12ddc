"""`python -m syncnorm bench`: time syncnorm's layer beside torch's batch norm on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from syncnorm._cli.extras import missing_packages

_NEEDED = {"torch": "torch", "numpy": "numpy", "matplotlib": "matplotlib"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: The command line without the program's name; None means `sys.argv[1:]`.

    Returns:
        The exit code.
    """
    error = missing_packages(_NEEDED, "bench")
    if error is not None:
        print(error, file=sys.stderr)
        return 1
    from .command import run

    return run(sys.argv[1:] if argv is None else argv)
