"""Settings as a string, which operators of torch take and graphs show."""

from __future__ import annotations

import ast
import functools
from typing import Any

import torch

from syncnorm import Options
from syncnorm.torch.options import Settings, core_options


def encoded(settings: Settings) -> str:
    """The fields by name, as in a call: "eps=1e-05, momentum=0.1, weighting='count', ..."."""
    return ", ".join(
        f"{name}={_constant(value)!r}"
        for name, value in zip(settings._fields, settings, strict=True)
    )


@functools.lru_cache(maxsize=1024)
def decoded(text: str) -> Options:
    """The core's options for settings that were encoded.

    A field that the text does not have, because it is younger than an exported program, has its
    default. Raises InvalidArgumentError for a value that the core does not know.
    """
    call = ast.parse(f"Settings({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    fields = {str(field.arg): ast.literal_eval(field.value) for field in call.keywords}
    return core_options(Settings(**fields))


def _constant(value: Any) -> Any:
    """The value itself, also of a number that a compiler made symbolic because it had changed."""
    if not (isinstance(value, float) and torch.compiler.is_compiling()):
        return value
    from torch.fx.experimental.symbolic_shapes import guard_scalar  # which takes long to import

    return guard_scalar(value)
