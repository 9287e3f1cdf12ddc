"""Checkpoints with batch normalization, from one system to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .dialects.states import tensor_of

__all__ = ["SYSTEMS", "convert"]


class System(NamedTuple):
    """How a system writes a batch normalization into a checkpoint.

    weight, bias, running_mean, running_var: its names; all are read, the first is written.
    counts: whether it has num_batches_tracked. constants: whether weight and bias are written also
    where they are not trained. shape: of a vector, with -1 for C. marks: what may stand before a
    key and means nothing.
    """

    weight: tuple[str, ...] = ("weight",)
    bias: tuple[str, ...] = ("bias",)
    running_mean: tuple[str, ...] = ("running_mean",)
    running_var: tuple[str, ...] = ("running_var",)
    counts: bool = False
    constants: bool = False
    shape: tuple[int, ...] = (-1,)
    marks: tuple[str, ...] = ()


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
    """The checkpoint of a network of the system source as one of the system target.

    state: from names to tensors or arrays, for instance what numpy.load gives for an .npz file.
    source, target: "torch", "mxnet", "paddle", "encoding", "mmcv" or "megengine".
    numpy: whether the values become NumPy's arrays, float32 for bfloat16; else they become tensors.

    A batch normalization is recognized by its running mean and variance, whatever stands before
    their names: `stem.bn._mean`, `batchnorm0_running_mean`. Its entries get the names and shapes of
    the target, and those that the target has and the source has not: num_batches_tracked is 0,
    weight 1 and bias 0. All other entries keep their names. The numbers are those of the source: a
    layer's eps and momentum are not in a checkpoint.

    Raises ValueError for another system, where no batch normalization is found, and where two
    entries would get one name.
    """
    old, new = _system(source, "source"), _system(target, "target")
    entries: dict[str, Any] = {}
    for key, value in state.items():
        _put(entries, _without_mark(key, old), _taken(value))
    layers = [_layer_at(prefix, entries, old) for prefix in dict.fromkeys(_prefixes(entries, old))]
    if not layers:
        raise ValueError(
            f"state: found no batch normalization of {source}, expected keys that end in"
            f" {old.running_mean[0]} and {old.running_var[0]}; got {_some(list(state))}"
        )
    converted = entries.copy()
    for layer in layers:
        for key in layer.keys.values():
            del converted[key]
    for layer in layers:
        for name, value in _written(layer, entries, new).items():
            _put(converted, name, value)
    return {key: _array(value) for key, value in converted.items()} if numpy else converted


def _system(name: str, argument: str) -> System:
    if name not in SYSTEMS:
        raise ValueError(f"{argument}: got {name!r}, expected one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def _put(entries: dict[str, Any], name: str, value: Any) -> None:
    if name in entries:
        raise ValueError(f"state: two entries would be called {name}")
    entries[name] = value


def _without_mark(key: str, system: System) -> str:
    mark = next((mark for mark in system.marks if key.startswith(mark)), "")
    return key.removeprefix(mark)


def _prefixes(entries: Mapping[str, Any], system: System) -> Iterator[str]:
    """What stands before the names of each batch normalization."""
    for key, value in entries.items():
        for mean, var in zip(system.running_mean, system.running_var, strict=True):
            prefix = key.removesuffix(mean)
            if key.endswith(mean) and (not prefix or prefix[-1] in "._/"):
                other = entries.get(prefix + var)
                if isinstance(value, Tensor) and isinstance(other, Tensor):
                    yield prefix


class _Layer(NamedTuple):
    """The keys of a batch normalization, by what they are: weight, bias, ..."""

    prefix: str
    keys: dict[str, str]


def _layer_at(prefix: str, entries: Mapping[str, Any], system: System) -> _Layer:
    names = {part: getattr(system, part) for part in _PARTS} | {_COUNT: (_COUNT,)}
    return _Layer(
        prefix,
        {
            part: prefix + name
            for part, all_names in names.items()
            for name in all_names
            if prefix + name in entries
        },
    )


def _written(layer: _Layer, entries: Mapping[str, Any], system: System) -> dict[str, Tensor]:
    """The entries of a layer, as the system has them."""
    parts = {part: entries[key] for part, key in layer.keys.items()}
    count = parts.pop(_COUNT, torch.zeros((), dtype=torch.int64))
    if system.constants:
        mean = parts["running_mean"]
        parts = {"weight": torch.ones_like(mean), "bias": torch.zeros_like(mean), **parts}
    written = {
        layer.prefix + getattr(system, part)[0]: value.reshape(system.shape)
        for part, value in parts.items()
    }
    return {**written, layer.prefix + _COUNT: count} if system.counts else written


def _taken(value: Any) -> Any:
    """Arrays as tensors; what is neither array nor tensor, or holds no numbers, as it is."""
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


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
