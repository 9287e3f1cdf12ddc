"""`python -m syncnorm run`: run a training script after syncnorm.torch.install()."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_USAGE = """\
usage: python -m syncnorm run SCRIPT [ARGUMENTS]
       python -m syncnorm run -m MODULE [ARGUMENTS]

Run a training script in which torch.nn.SyncBatchNorm and its converter make syncnorm's layers:
    torchrun --nproc-per-node 2 -m syncnorm run train.py
"""


def main(argv: Sequence[str], install: Callable[[], object]) -> int:
    """Run the script or module with its arguments, as python itself would, after install().

    Args:
        argv: The command line after `run`.
        install: syncnorm.torch.install, or a function that calls it.

    Returns:
        The exit code: 2 for a wrong command line. What the script raises is not caught.
    """
    is_module = argv[:1] == ["-m"]
    target = argv[1:2] if is_module else argv[:1]
    if not target or target[0].startswith("-"):
        is_help = target in (["-h"], ["--help"])
        print(_USAGE, file=sys.stdout if is_help else sys.stderr, end="")
        return 0 if is_help else 2
    install()
    sys.argv[:] = argv[is_module:]
    if is_module:
        runpy.run_module(target[0], run_name="__main__", alter_sys=True)
        return 0
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(target[0]).resolve().parent)
    runpy.run_path(target[0], run_name="__main__")
    return 0
