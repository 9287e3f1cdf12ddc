"""Attributes of a layer for eps, momentum and the other settings, checked when they are set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from syncnorm.settings import Settings

from .operands import make_options

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class HasSettings(Protocol):
    """An object that stores the settings that differ from the defaults.

    It stores no others, because a call with fewer keyword arguments is faster.
    """

    settings: dict[str, Any]


class Setting(Generic[T]):
    """Descriptor for one field of Settings. Setting a value that is not allowed raises at once."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._default: Any = Settings._field_defaults[name]

    @overload
    def __get__(self, layer: None, owner: type) -> Self: ...
    @overload
    def __get__(self, layer: HasSettings, owner: type | None = None) -> T: ...
    def __get__(self, layer: HasSettings | None, owner: type | None = None) -> Self | T:
        if layer is None:
            return self
        value: T = layer.settings.get(self._name, self._default)
        return value

    def __set__(self, layer: HasSettings, value: T) -> None:
        layer.settings = without_defaults({**layer.settings, self._name: value})


def without_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults.

    Raises:
        InvalidArgumentError: A value is not allowed.
        TypeError: There is no setting of this name.
    """
    make_options(**settings)
    return {k: v for k, v in settings.items() if v != Settings._field_defaults[k]}
