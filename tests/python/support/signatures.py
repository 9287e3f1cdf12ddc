"""The arguments of a function or class as its signature has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def positional(called: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Names and defaults of what may be given by position, in order."""
    parameters = inspect.signature(called).parameters.values()
    return [(p.name, p.default) for p in parameters if p.kind is not p.KEYWORD_ONLY]
