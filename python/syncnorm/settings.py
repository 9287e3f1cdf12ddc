"""How a call computes, as the adapters say it, and the core's Options for it."""

from __future__ import annotations

import atexit
import functools
import zlib
from typing import NamedTuple, TypedDict

from syncnorm._core import Options


class Choices(TypedDict, total=False):
    """The keyword arguments that choose how a layer computes; class Options explains them."""

    weighting: str
    eps_mode: str
    variance_factor: str
    grad_reduction: str
    centering: str
    activation: str
    negative_slope: float
    in_place: bool


class SettingsArguments(Choices, total=False):
    """All of Settings, as keyword arguments."""

    eps: float
    momentum: float | None


class Settings(NamedTuple):
    """eps, momentum and the choices: plain values, so that a compiler can look through them."""

    eps: float = 1e-5
    momentum: float | None = 0.1
    weighting: str = "count"
    eps_mode: str = "add"
    variance_factor: str = "unbiased"
    grad_reduction: str = "local"
    centering: str = "auto"
    activation: str = "identity"
    negative_slope: float = 0.01
    in_place: bool = False


# The choices, with their defaults.
CHOICES: dict[str, str | float] = {
    name: default
    for name, default in Settings._field_defaults.items()
    if name not in ("eps", "momentum")
}


@functools.lru_cache(maxsize=1024)
def core_options(settings: Settings) -> Options:
    """The Options with these values; the same object for the same values.

    Raises InvalidArgumentError for a value that the core does not know.
    """
    return Options(**settings._asdict())


def constant_tag(name: str | None) -> int:
    """The tag of a layer's calls where they cannot be counted: in CUDA graphs, when compiling."""
    return 1 if name is None else (1 << 32) | zlib.crc32(name.encode())


# torch.library keeps this module to the very end, after the core expects its objects to be gone.
atexit.register(core_options.cache_clear)
