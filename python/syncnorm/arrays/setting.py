"""eps, momentum and the choices as attributes of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from syncnorm.settings import Settings

from .operands import options_of

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class HasSettings(Protocol):
    """A layer whose settings are attributes."""

    # Those that differ from the defaults: a call takes less time with few keyword arguments.
    settings: dict[str, Any]


class Setting(Generic[T]):
    """One of Settings as an attribute, refused at once if the core does not know its value."""

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
        layer.settings = changed({**layer.settings, self._name: value})


def changed(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from the defaults.

    Raises InvalidArgumentError for values that the core does not know, TypeError for other names.
    """
    options_of(**settings)
    return {k: v for k, v in settings.items() if v != Settings._field_defaults[k]}
