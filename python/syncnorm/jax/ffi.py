"""The core's phases as foreign function calls of XLA.

bindings/xla_ffi_call.hpp documents the operands, results and attributes of the handlers.
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

from .layout import Layout, result
from .mesh_axes import Axes, mark_varying, varying_axes

Results = Mapping[str, jax.ShapeDtypeStruct]

_OLDEST_JAX = (0, 9, 1)  # the first with the FFI version of the handlers


def _register() -> None:
    """Register the handlers with XLA; an older JAX would fail to start with them."""
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
    layout: Layout,
    settings: Settings,
    operands: Mapping[str, Array | None],
    results: Results,
    *,
    tag: int,
    updated: Sequence[str] = (),
    invariant: Mapping[str, Axes] | None = None,
    **attributes: int,
) -> dict[str, Array]:
    """Call a phase of the core.

    Args:
        phase: The name of its handler.
        layout: The layout of x.
        settings: Passed as attributes.
        operands: Arrays by name; those that are None are left out.
        results: Shapes and dtypes by name.
        tag: A number for the call, the same on all ranks.
        updated: Operands that the phase updates in place, as the results of the same names.
        invariant: For a result, mesh axes along which it is the same on all devices although the
            operands vary.
        **attributes: Further attributes of the handler.

    Returns:
        The results by name.
    """
    workspace = result((layout.workspace_size(settings),), jnp.uint8)
    # The handlers read numbers as float64, and a missing momentum as the cumulative average.
    options = {
        name: value if isinstance(value, str | bool) else float(value)
        for name, value in settings._asdict().items()
        if value is not None
    }
    made = call_handler(
        phase,
        operands,
        {**results, "workspace": workspace},
        updated=updated,
        invariant=invariant,
        **options,
        channels_last=layout.channels_last,
        tag=tag,
        num_threads=_num_threads(),
        **attributes,
    )
    return {name: made[name] for name in results}


def call_handler(
    handler: str,
    operands: Mapping[str, Array | None],
    results: Results,
    *,
    updated: Sequence[str] = (),
    invariant: Mapping[str, Axes] | None = None,
    **attributes: bool | float | str,
) -> dict[str, Array]:
    """Call a handler; arguments and results as in call_phase."""
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
        name: mark_varying(value, varying - (invariant or {}).get(name, frozenset()))
        for name, value in zip(result_names, values, strict=True)
    }


@functools.cache
def _num_threads() -> int:
    """Return the share of one CPU device in the cores of the process."""
    return max(1, usable_cores() // jax.local_device_count(backend="cpu"))
