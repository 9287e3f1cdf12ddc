"""State dicts of a layer: the names that other systems use, and arrays from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from syncnorm._core import InvalidArgumentError
from syncnorm._facts import class_name

from .library import A, ArrayLibrary

# A layer's arrays, by torch's names, and what other systems call them.
NAMES = {
    "weight": ("weight", "gamma", "scale"),
    "bias": ("bias", "beta"),
    "running_mean": ("running_mean", "avg_mean", "_mean", "moving_mean", "mean"),
    "running_var": ("running_var", "avg_var", "_variance", "moving_variance", "var"),
    "num_batches_tracked": ("num_batches_tracked", "N"),
}
OPTIONAL = "num_batches_tracked"  # older state dicts, and most systems, do not count


class IncompatibleKeys(NamedTuple):
    """What load_state_dict did not find, and what it did not know, as torch reports it."""

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
    """Copies the arrays of `state` into `targets`: all of them, or none where it raises."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state: got {type(state).__name__}, expected a mapping of names to arrays, such as"
            " numpy.load gives for an .npz file"
        )
    keys = [key for key in state if isinstance(key, str) and key.startswith(prefix)]
    found = {name: _key_of(name, keys, prefix) for name in targets}
    missing = [prefix + name for name, key in found.items() if key is None and name != OPTIONAL]
    unexpected = [key for key in keys if key not in found.values()]
    if strict and (missing or unexpected):
        raise InvalidArgumentError(_differences(missing, unexpected, state, prefix))
    fresh = {
        name: _converted(library, state[key], targets[name], key)
        for name, key in found.items()
        if key is not None
    }
    for name, value in fresh.items():
        library.assign(targets[name], value)
    return IncompatibleKeys(missing, unexpected)


def _key_of(name: str, keys: list[str], prefix: str) -> str | None:
    """The one key that means this array; None without one."""
    matching = [prefix + alias for alias in NAMES[name] if prefix + alias in keys]
    if len(matching) > 1:
        raise InvalidArgumentError(
            f"state: got {' and '.join(matching)}, which both mean {name}; expected one of them"
        )
    return matching[0] if matching else None


def _differences(
    missing: list[str], unexpected: list[str], state: Iterable[str], prefix: str
) -> str:
    parts = []
    if missing:
        names = "/".join(NAMES[missing[0].removeprefix(prefix)])
        parts.append(
            f"missing {', '.join(missing)} (expected one of the names {names} for the first)"
        )
    if unexpected:
        parts.append(f"unexpected {_some(unexpected)}")
    prefixes = [p for p in _prefixes(state) if p != prefix]
    hint = f"; give the layer's prefix, such as {_some(prefixes)}" if prefixes else ""
    return f"state: {'; '.join(parts)}{hint}; strict=False loads what fits"


def _prefixes(state: Iterable[str]) -> list[str]:
    """What stands before names that mean a running mean, separator included."""
    endings = tuple(f"{sep}{name}" for name in NAMES["running_mean"] for sep in "./")
    names = (key for key in state if isinstance(key, str) and key.endswith(endings))
    return [key[: max(key.rfind("."), key.rfind("/")) + 1] for key in names]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _converted(library: ArrayLibrary[A], value: Any, target: A, key: str) -> A:
    """The value in a new array like target."""
    array = _as_array(library, value, type(target), key)
    if _without_ones(array.shape) != _without_ones(target.shape):
        raise InvalidArgumentError(
            f"{key}: got shape {tuple(array.shape)}, expected {target.shape}, or that with axes of"
            " length 1 added"
        )
    if not _fits(array.dtype, target.dtype):
        raise InvalidArgumentError(
            f"{key}: got dtype {array.dtype}, expected numbers that fit {target.dtype}"
        )
    fresh = library.empty(target.shape, target.dtype)
    library.assign(fresh, array.reshape(target.shape))
    return fresh


def _fits(dtype: Any, target: Any) -> bool:
    if target.kind == "i":
        return dtype.kind in "iu"
    return dtype.kind in "fiu" or dtype.name == "bfloat16"


def _without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _as_array(library: ArrayLibrary[A], value: Any, kind: type, key: str) -> Any:
    """An array of this library, which are of this kind, or of NumPy's, wherever it comes from."""
    if hasattr(value, "detach"):
        return _from_torch(value)
    if isinstance(value, kind) or not hasattr(value, "__array__"):
        array: Any = library.adopt(value, key)
    else:
        try:
            array = value.__array__()
        except TypeError as error:  # CuPy's: it is not for NumPy
            raise TypeError(f"{key}: got {class_name(value)}: {error}") from error
    return _from_bits(array) if array.dtype.name == "void16" else array


def _from_torch(tensor: Any) -> Any:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # NumPy has no bfloat16
    return tensor.numpy()


def _from_bits(array: Any) -> Any:
    """float32 from bfloat16, which numpy.load gives as two bytes without a meaning."""
    return (array.view("uint16").astype("uint32") << 16).view("float32")
