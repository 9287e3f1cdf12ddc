"""`python -m syncnorm run`: run a training script after syncnorm.torch.install()."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from zipfile import is_zipfile

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
        The exit code: 2 for a wrong command line or a missing script, 1 without torch. No exception
        of the script is caught.
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
    if not is_module and not Path(target[0]).exists():
        print(f"python -m syncnorm run: got {target[0]}, which does not exist", file=sys.stderr)
        return 2
    from syncnorm.torch import install

    install()
    hooks = str(Path(__file__).with_name("child_processes"))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{hooks}{os.pathsep}{inherited}" if inherited else hooks
    sys.argv[:] = argv[is_module:]
    # As in Python, the module stays: threads and exit handlers may use it after the last line.
    main = sys.modules["__main__"] = ModuleType("__main__")
    if is_module:
        runpy._run_module_as_main(target[0])  # type: ignore[attr-defined] # noqa: SLF001
        return 0
    path = Path(target[0]).absolute()
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(path.resolve().parent)
    if path.is_dir() or is_zipfile(path):
        runpy.run_path(str(path), run_name="__main__")
        return 0
    vars(main).update(__file__=str(path), __builtins__=builtins)
    with io.open_code(str(path)) as script:
        code = compile(script.read(), path, "exec", dont_inherit=True)
    exec(code, vars(main))
    return 0
