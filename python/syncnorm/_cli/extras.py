"""Check for the optional packages of a command."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping


def missing_packages(needed: Mapping[str, str], command: str) -> str | None:
    """Return an error message for the packages that are not installed; None if there are none.

    Args:
        needed: Module name -> distribution name.
        command: Name of the command, for the message.
    """
    absent = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    packages = " ".join(absent)
    return (
        f"syncnorm {command}: {', '.join(absent)} {verb} not installed; "
        f"install with: python -m pip install {packages}"
    )
