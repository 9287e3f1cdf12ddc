"""Loads the arrays of a layer from state dicts of this and other systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from syncnorm._core import ArgumentTypeError, InvalidArgumentError
from syncnorm._facts import class_name

from .library import A, ArrayLibrary

# The names of torch for a layer's arrays, each with the names of other systems.
NAMES = {
    "weight": ("weight", "gamma", "scale"),
    "bias": ("bias", "beta"),
    "running_mean": ("running_mean", "avg_mean", "_mean", "moving_mean", "mean"),
    "running_var": ("running_var", "avg_var", "_variance", "moving_variance", "var"),
    "num_batches_tracked": ("num_batches_tracked", "N"),
}
OPTIONAL = "num_batches_tracked"  # most systems, and old versions of torch, do not store it


class IncompatibleKeys(NamedTuple):
    """The result of load_state_dict, with the field names of torch.

    Attributes:
        missing_keys: Names that the state did not have.
        unexpected_keys: Names of the state that mean no array of the layer.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]


def load(
    library: ArrayLibrary[A],
    targets: Mapping[str, A],
    state: Mapping[str, Any],
    *,
    strict: bool,
    prefix: str,
) -> IncompatibleKeys:
    """Copy the arrays of `state` into `targets`: all of them, or none if it raises.

    Args:
        library: The library of the targets.
        targets: The arrays of a layer, by the names of torch.
        state: Arrays of any library, by the names of any system in NAMES.
        strict: Raise if names are missing or unknown. Otherwise return them.
        prefix: Use only names that start with it.

    Raises:
        InvalidArgumentError: Names are missing or unknown, two names mean the same array, or a
            shape or dtype does not fit.
        TypeError: state is no mapping, or a value is no array.
    """
    if not isinstance(state, Mapping):
        raise ArgumentTypeError(
            f"state: got {type(state).__name__}, expected a mapping of names to arrays, such as the"
            " result of numpy.load for an .npz file"
        )
    keys = [key for key in state if isinstance(key, str) and key.startswith(prefix)]
    found = {name: _find_key(name, keys, prefix) for name in targets}
    missing = [prefix + name for name, key in found.items() if key is None and name != OPTIONAL]
    unexpected = [key for key in keys if key not in found.values()]
    if strict and (missing or unexpected):
        raise InvalidArgumentError(_describe(missing, unexpected, state, prefix))
    converted = {
        name: _convert(library, state[key], targets[name], key)
        for name, key in found.items()
        if key is not None
    }
    for name, value in converted.items():
        library.assign(targets[name], value)
    return IncompatibleKeys(missing, unexpected)


def _find_key(name: str, keys: list[str], prefix: str) -> str | None:
    """Return the key that means this array, or None if there is none."""
    matching = [prefix + alias for alias in NAMES[name] if prefix + alias in keys]
    if len(matching) > 1:
        raise InvalidArgumentError(
            f"state: got {' and '.join(matching)}, which both mean {name}; expected one of them"
        )
    return matching[0] if matching else None


def _describe(missing: list[str], unexpected: list[str], state: Iterable[str], prefix: str) -> str:
    """Return the message for missing and unknown names."""
    parts = []
    if missing:
        names = "/".join(NAMES[missing[0].removeprefix(prefix)])
        parts.append(f"missing {', '.join(missing)} (names of the first: {names})")
    if unexpected:
        parts.append(f"unexpected {_shorten(unexpected)}")
    prefixes = [p for p in _find_prefixes(state) if p != prefix]
    hint = f"; pass the layer's prefix, such as {_shorten(prefixes)}" if prefixes else ""
    return f"state: {'; '.join(parts)}{hint}; strict=False loads the arrays that fit"


def _find_prefixes(state: Iterable[str]) -> list[str]:
    """Return the prefixes of all running means in the state, with their separators."""
    endings = tuple(f"{sep}{name}" for name in NAMES["running_mean"] for sep in "./")
    names = (key for key in state if isinstance(key, str) and key.endswith(endings))
    return [key[: max(key.rfind("."), key.rfind("/")) + 1] for key in names]


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _convert(library: ArrayLibrary[A], value: Any, target: A, key: str) -> A:
    """Return value as a new array in the shape and dtype of target."""
    array = _as_array(library, value, type(target), key)
    if _without_ones(array.shape) != _without_ones(target.shape):
        raise InvalidArgumentError(
            f"{key}: got shape {tuple(array.shape)}, expected {target.shape}, where axes of length"
            " 1 may be added"
        )
    if not _can_cast(array.dtype, target.dtype):
        raise InvalidArgumentError(
            f"{key}: got dtype {array.dtype}, expected numbers that can be cast to {target.dtype}"
        )
    converted = library.empty(target.shape, target.dtype)
    library.assign(converted, array.reshape(target.shape))
    return converted


def _can_cast(dtype: Any, target: Any) -> bool:
    if target.kind == "i":
        return dtype.kind in "iu"
    return dtype.kind in "fiu" or dtype.name == "bfloat16"


def _without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _as_array(library: ArrayLibrary[A], value: Any, array_type: type, key: str) -> Any:
    """Return value as an array of the library, which has this type, or of NumPy."""
    if hasattr(value, "detach"):
        return _from_torch(value)
    if isinstance(value, array_type) or not hasattr(value, "__array__"):
        array: Any = library.as_array(value, key)
    else:
        try:
            array = value.__array__()
        except TypeError as error:  # such as CuPy's, which has no implicit conversion to NumPy
            raise ArgumentTypeError(f"{key}: got {class_name(value)}: {error}") from error
    return _from_bfloat16_bytes(array) if array.dtype.name == "void16" else array


def _from_torch(tensor: Any) -> Any:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # NumPy has no bfloat16
    return tensor.numpy()


def _from_bfloat16_bytes(array: Any) -> Any:
    """Return float32 values of a bfloat16 array, for which numpy.load has only the dtype void16."""
    return (array.view("uint16").astype("uint32") << 16).view("float32")
