"""Convert checkpoints with batch normalization from one system to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from syncnorm import InvalidArgumentError

from .dialects import tensor_of

__all__ = ["SYSTEMS", "convert"]


class System(NamedTuple):
    """The format of a batch normalization in a system's checkpoints."""

    # Names, of which all are read and the first is written.
    weight: tuple[str, ...] = ("weight",)
    bias: tuple[str, ...] = ("bias",)
    running_mean: tuple[str, ...] = ("running_mean",)
    running_var: tuple[str, ...] = ("running_var",)
    counts: bool = False  # has num_batches_tracked
    constants: bool = False  # has weight and bias also if they are not trained
    shape: tuple[int, ...] = (-1,)  # of a vector, with -1 for C
    marks: tuple[str, ...] = ()  # prefixes of keys that are ignored


SYSTEMS = {
    "torch": System(counts=True),
    "encoding": System(counts=True),
    "mmcv": System(counts=True),
    "mxnet": System(
        ("gamma",),
        ("beta",),
        ("running_mean", "moving_mean"),
        ("running_var", "moving_var"),
        constants=True,
        marks=("arg:", "aux:"),
    ),
    "paddle": System(running_mean=("_mean",), running_var=("_variance",), constants=True),
    "megengine": System(shape=(1, -1, 1, 1)),
}

_PARTS = ("weight", "bias", "running_mean", "running_var")
_COUNT = "num_batches_tracked"


def convert(
    state: Mapping[str, Any], source: str, target: str = "torch", *, numpy: bool = False
) -> dict[str, Any]:
    """Convert the checkpoint of a network from one system to another.

    A batch normalization is recognized by its running mean and variance with any prefix:
    `stem.bn._mean`, `batchnorm0_running_mean`. Its entries get the names and shapes of the target.
    Entries that only the target has are added: num_batches_tracked 0, weight 1, bias 0. All other
    entries keep their names. eps and momentum are not part of a checkpoint.

    Args:
        state: Names to tensors or arrays, for instance from numpy.load of an .npz file.
        source, target: "torch", "mxnet", "paddle", "encoding", "mmcv" or "megengine".
        numpy: Return NumPy arrays, float32 for bfloat16, instead of tensors.

    Raises:
        InvalidArgumentError: Unknown system, no batch normalization, or two entries with one name.
    """
    for argument, name in (("source", source), ("target", target)):
        if name not in SYSTEMS:
            expected = ", ".join(SYSTEMS)
            raise InvalidArgumentError(f"{argument}: got {name!r}, expected one of {expected}")
    old, new = SYSTEMS[source], SYSTEMS[target]
    entries: dict[str, Any] = {}
    for key, value in state.items():
        mark = next((mark for mark in old.marks if key.startswith(mark)), "")
        _put(entries, key.removeprefix(mark), _as_tensor(value))
    layers = _take_layers(entries, old)
    if not layers:
        more = f" and {len(state) - 4} more" if len(state) > 4 else ""
        raise InvalidArgumentError(
            f"state: found no batch normalization of {source}, expected keys that end in"
            f" {old.running_mean[0]} and {old.running_var[0]}; got {', '.join([*state][:4])}{more}"
        )
    for prefix, parts in layers.items():
        for name, value in _written(parts, new).items():
            _put(entries, prefix + name, value)
    return {key: _array(value) for key, value in entries.items()} if numpy else entries


def _put(entries: dict[str, Any], name: str, value: Any) -> None:
    if name in entries:
        raise InvalidArgumentError(f"state: two entries would be called {name}")
    entries[name] = value


def _take_layers(entries: dict[str, Any], system: System) -> dict[str, dict[str, Tensor]]:
    """Remove the batch normalizations from entries; return their values by prefix and part."""
    names = {part: getattr(system, part) for part in _PARTS} | {_COUNT: (_COUNT,)}
    prefixes = []
    for key, value in entries.items():
        for mean, var in zip(system.running_mean, system.running_var, strict=True):
            prefix = key.removesuffix(mean)
            if key.endswith(mean) and prefix[-1:] in ("", ".", "_", "/"):
                other = entries.get(prefix + var)
                if isinstance(value, Tensor) and isinstance(other, Tensor):
                    prefixes.append(prefix)
    layers = {}
    for prefix in dict.fromkeys(prefixes):
        keys = {
            part: prefix + name
            for part, known in names.items()
            for name in known
            if prefix + name in entries
        }
        layers[prefix] = {part: entries.pop(key) for part, key in keys.items()}
    return layers


def _written(parts: dict[str, Tensor], system: System) -> dict[str, Tensor]:
    """Return the entries of a layer in the format of the system."""
    count = parts.pop(_COUNT, torch.zeros((), dtype=torch.int64))
    if system.constants:
        mean = parts["running_mean"]
        parts = {"weight": torch.ones_like(mean), "bias": torch.zeros_like(mean), **parts}
    written = {}
    for part, value in parts.items():
        written[getattr(system, part)[0]] = value.reshape(system.shape)
    return {**written, _COUNT: count} if system.counts else written


def _as_tensor(value: Any) -> Any:
    """Return an array of numbers as a tensor, and anything else unchanged."""
    if not hasattr(value, "dtype"):
        return value
    try:
        return tensor_of(value)
    except TypeError:  # an array of texts or objects
        return value


def _array(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
