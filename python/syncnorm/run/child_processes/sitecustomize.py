"""Call install() in the Python processes that a script of `python -m syncnorm run` starts.

Python imports sitecustomize at its start; this folder is in front of their PYTHONPATH.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType


class _InstallAfterTorch(MetaPathFinder):
    """Finds torch as the other finders do, and calls install() after its first import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((each for each in found if each), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            sys.meta_path.remove(self)
            if find_spec("syncnorm") is None:  # another interpreter
                return
            from syncnorm.torch import install

            install()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _import_the_next() -> None:
    """Import the sitecustomize that this one hides."""
    here = Path(__file__).parent.resolve()
    path = [entry for entry in sys.path if Path(entry).resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


sys.meta_path.insert(0, _InstallAfterTorch())
_import_the_next()
