"""`python -m syncnorm demo`: show what synchronized statistics change, on real data.

The demo trains one small network on handwritten digits three times, from the same parameters on the
same samples in the same order: with local BatchNorm on every rank, with syncnorm, and as a single
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
    """Run the demo.

    Args:
        argv: The command line without the program's name; None means `sys.argv[1:]`.

    Returns:
        The exit code.
    """
    error = missing_packages(_NEEDED, "demo")
    if error is not None:
        print(error, file=sys.stderr)
        return 1
    from .command import run

    return run(sys.argv[1:] if argv is None else argv)
