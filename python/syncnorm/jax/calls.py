"""The core's phases as foreign function calls of XLA.

bindings/xla_ffi_call.hpp says what a handler expects; this is the other side of it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import UnsupportedError, _core
from syncnorm._facts import usable_cores
from syncnorm.settings import Settings

from .form import Form, result
from .varying import Axes, cast, varying_axes

Results = Mapping[str, jax.ShapeDtypeStruct]


_OLDEST_JAX = (0, 9, 1)  # the first whose XLA knows the interface that the handlers speak


def _register() -> None:
    """With an older JAX nothing is registered, as that would keep it from starting."""
    if jax.__version_info__ < _OLDEST_JAX:
        oldest = ".".join(map(str, _OLDEST_JAX))
        raise UnsupportedError(
            f"syncnorm.jax: got JAX {jax.__version__}, expected {oldest} or newer"
        )
    for platform, device in (("cpu", "cpu"), ("CUDA", "cuda")):
        for name, handler in _core.xla_ffi_handlers(device).items():
            jax.ffi.register_ffi_target(_target(name), handler, platform=platform)


def _target(name: str) -> str:
    return f"syncnorm_{name}"


_register()


def call_phase(
    phase: str,
    form: Form,
    settings: Settings,
    operands: Mapping[str, Array | None],
    results: Results,
    *,
    tag: int,
    updated: Sequence[str] = (),
    alike: Mapping[str, Axes] | None = None,
    **attributes: int,
) -> dict[str, Array]:
    """The results of a phase, by name. Operands that are None are not given.

    updated: operands that the phase changes in place, results of the same names. alike: for results
    that are the same on all devices along some mesh axes, whatever the operands are, those axes.
    """
    scratch = result((form.workspace_size(settings),), jnp.uint8)
    # Numbers as float64, also those that were given as integers. Without momentum: the cumulative
    # average.
    options = {
        name: value if isinstance(value, str | bool) else float(value)
        for name, value in settings._asdict().items()
        if value is not None
    }
    made = call(
        phase,
        operands,
        {**results, "workspace": scratch},
        updated=updated,
        alike=alike,
        **options,
        channels_last=form.channels_last,
        tag=tag,
        num_threads=_num_threads(),
        **attributes,
    )
    return {name: made[name] for name in results}


def call(
    handler: str,
    operands: Mapping[str, Array | None],
    results: Results,
    *,
    updated: Sequence[str] = (),
    alike: Mapping[str, Axes] | None = None,
    **attributes: bool | float | str,
) -> dict[str, Array]:
    """The results of a handler, by name; as call_phase."""
    given = {name: array for name, array in operands.items() if array is not None}
    names, result_names = list(given), list(results)
    function = jax.ffi.ffi_call(
        _target(handler),
        list(results.values()),
        input_output_aliases={names.index(name): result_names.index(name) for name in updated},
        vmap_method="sequential",
    )
    values = function(
        *given.values(), operands=" ".join(names), results=" ".join(result_names), **attributes
    )
    varying = varying_axes(*given.values())
    return {
        name: cast(value, varying - (alike or {}).get(name, frozenset()))
        for name, value in zip(result_names, values, strict=True)
    }


@functools.cache
def _num_threads() -> int:
    """For each CPU device its share of the cores that this process may use."""
    return max(1, usable_cores() // jax.local_device_count(backend="cpu"))
