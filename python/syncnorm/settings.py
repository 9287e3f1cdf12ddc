"""The settings of a layer, and their conversion to the core's Options."""

from __future__ import annotations

import atexit
import functools
from typing import NamedTuple, TypedDict

from syncnorm._core import ArgumentTypeError, InvalidArgumentError, Options


class Choices(TypedDict, total=False):
    """Keyword arguments of a layer besides eps and momentum, documented in syncnorm.Options."""

    weighting: str
    eps_mode: str
    variance_factor: str
    grad_reduction: str
    centering: str
    activation: str
    negative_slope: float
    in_place: bool


class SettingsArguments(Choices, total=False):
    """The keyword arguments of Settings."""

    eps: float
    momentum: float | None


class Settings(NamedTuple):
    """eps, momentum and the choices, as plain values that torch.compile and JAX can trace.

    Attributes:
        eps: Added to the variance; finite, >= 0.
        momentum: Weight of the batch in the running statistics, or None for the average.

    syncnorm.Options documents the others.
    """

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


# The names of Choices, with their defaults.
CHOICES: dict[str, str | float] = {
    name: default
    for name, default in Settings._field_defaults.items()
    if name not in ("eps", "momentum")
}


def check_positive(eps: float) -> None:
    """Raise InvalidArgumentError for an eps with which torch does not train."""
    if isinstance(eps, (int, float)) and eps <= 0:
        raise InvalidArgumentError(
            f"eps: got {eps}; eps must be positive in training, such as 1e-5"
        )


@functools.lru_cache(maxsize=1024)
def core_options(settings: Settings, positive_eps: bool = False) -> Options:
    """Return the Options with these values, from a cache.

    Args:
        settings: The values.
        positive_eps: Refuse an eps of 0, too.

    Raises:
        InvalidArgumentError: A value is not allowed.
        ArgumentTypeError: A value has the wrong type.
    """
    if positive_eps:
        check_positive(settings.eps)
    try:
        return Options(**settings._asdict())
    except TypeError as error:
        raise wrong_type(settings) from error


def wrong_type(settings: Settings) -> ArgumentTypeError:
    """Return the error for settings of which a value has the wrong type or no hash."""
    expected = {
        "eps": "a number",
        "momentum": "a number or None",
        "negative_slope": "a number",
        "in_place": "a bool",
    }
    for name, value in settings._asdict().items():
        try:
            hash(value)
            Options(**{name: value})
        except TypeError:
            wanted = expected.get(name, "a string")
            return ArgumentTypeError(f"{name}: got {value!r}, expected {wanted} of Python")
        except InvalidArgumentError:  # of the right type
            continue
    return ArgumentTypeError(f"got {settings}, expected numbers and strings of Python")


# torch.library keeps this module alive beyond nanobind's leak check at exit.
atexit.register(core_options.cache_clear)
