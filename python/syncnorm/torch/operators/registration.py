"""How a function becomes an operator of torch, in the namespace syncnorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.library import Library, infer_schema, register_fake

_LIBRARY = Library("syncnorm", "FRAGMENT")  # type: ignore[no-untyped-call]


def operator(*, fake: Callable[..., Any], writes: tuple[str, ...] = ()) -> Callable[..., Any]:
    """A decorator that makes of a function the operator syncnorm::<its name>, for every device.

    fake: takes the same arguments and gives results of the same shapes, dtypes and strides, without
    values. writes: the arguments that the function writes to.

    torch.library.custom_op does as much, but to call such an operator takes five times as long.
    """

    def make(function: Callable[..., Any]) -> Any:
        name = function.__name__
        schema = infer_schema(function, mutates_args=writes)
        tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
        _LIBRARY.define(name + schema, tags=tags)  # type: ignore[no-untyped-call]
        _LIBRARY.impl(  # type: ignore[no-untyped-call]
            name, function, "CompositeExplicitAutograd"
        )
        register_fake(f"syncnorm::{name}", fake, lib=_LIBRARY)
        return getattr(torch.ops.syncnorm, name).default

    return make
