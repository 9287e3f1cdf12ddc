"""Classes that are made of a class of another library and one of syncnorm."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def combined(*bases: Any) -> Any:
    """Return a class of these bases. Its instances can be pickled: the pickle names the bases."""
    name = next(base.__name__ for base in bases if not base.__name__.startswith("_"))
    names = {"__module__": __name__, "__reduce_ex__": _reduce}
    return type(name if name.startswith("Sync") else f"Sync{name}", bases, names)


def blank(*bases: Any) -> Any:
    """Return an instance of a combined class without attributes."""
    kind = combined(*bases)
    return kind.__new__(kind)


def _reduce(self: Any, _: Any) -> tuple[Any, ...]:
    state = object.__reduce_ex__(self, 2)[2]
    return blank, type(self).__bases__, state
