"""The optional packages of a command: named in one line where they are missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping


def missing_packages(needed: Mapping[str, str], command: str) -> str | None:
    """None when all modules of `needed` (module -> name to install) are there, else what to do."""
    absent = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    packages = " ".join(absent)
    return (
        f"syncnorm {command}: {', '.join(absent)} {verb} not installed; "
        f"install with: python -m pip install {packages}"
    )
