"""`python -m syncnorm run`: run a training script after syncnorm.torch.install()."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from syncnorm._cli.extras import missing_packages

_USAGE = """\
usage: python -m syncnorm run SCRIPT [ARGUMENTS]
       python -m syncnorm run -m MODULE [ARGUMENTS]

Run a training script in which torch.nn.SyncBatchNorm and its converter make syncnorm's layers:
    torchrun --nproc-per-node 2 -m syncnorm run train.py
"""


def main(argv: Sequence[str]) -> int:
    """Run the script or module with its arguments, as python itself would, after install().

    Python processes that it starts call install() when they import torch: they inherit PYTHONPATH.

    Args:
        argv: The command line after `run`.

    Returns:
        The exit code: 2 for a wrong command line, 1 without torch. No exception of the script is
        caught.
    """
    is_module = argv[:1] == ["-m"]
    target = argv[1:2] if is_module else argv[:1]
    if not target or target[0].startswith("-"):
        is_help = target in (["-h"], ["--help"])
        print(_USAGE, file=sys.stdout if is_help else sys.stderr, end="")
        return 0 if is_help else 2
    if error := missing_packages({"torch": "torch"}, "run"):
        print(error, file=sys.stderr)
        return 1
    from syncnorm.torch import install

    install()
    hooks = str(Path(__file__).with_name("child_processes"))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{hooks}{os.pathsep}{inherited}" if inherited else hooks
    sys.argv[:] = argv[is_module:]
    if is_module:
        runpy.run_module(target[0], run_name="__main__", alter_sys=True)
        return 0
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(target[0]).resolve().parent)
    runpy.run_path(target[0], run_name="__main__")
    return 0
