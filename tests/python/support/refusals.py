"""The functions of the binding by argument name, and what a refused call must leave alone."""

from __future__ import annotations

from typing import Any

import pytest

from support.buffers import Buffer, dense_strides, workspace
from support.driver import Rank
from syncnorm import _core

N, C, S = 3, 5, 7
# How the C functions are called, by argument name; "wire" of the backward pass is grad_wire.
CALLS = {
    "moments": "x wire mask local_var y saved weight bias running_mean running_var "
    "num_batches_tracked residual",
    "center": "x wire total local_var center_wire",
    "normalize": "x wire total y center_total saved weight bias running_mean running_var "
    "num_batches_tracked residual",
    "update_running": "x wire total center_total running_mean running_var num_batches_tracked",
    "grad_moments": "x dy saved wire weight bias y dx dresidual dweight dbias mask",
    "grad_input": "x dy saved wire total dx dresidual dweight dbias weight bias mask y",
    "infer": "x running_mean running_var y weight bias residual saved",
    "infer_backward": "x dy saved dx dresidual dweight dbias weight bias y",
    "forward": "x y saved mask residual weight bias running_mean running_var num_batches_tracked",
    "backward": "x dy saved dx dresidual dweight dbias weight bias mask y",
}
GROUPS = ("center", "normalize", "update_running", "grad_input")
ONE_CALL = ("forward", "backward")
OUTPUTS = {
    "moments": "wire local_var y saved running_mean running_var num_batches_tracked",
    "center": "center_wire",
    "normalize": "y saved running_mean running_var num_batches_tracked",
    "update_running": "running_mean running_var num_batches_tracked",
    "grad_moments": "wire dx dresidual dweight dbias",
    "grad_input": "dx dresidual dweight dbias",
    "infer": "y saved",
    "infer_backward": "dx dresidual dweight dbias",
    "forward": "y saved running_mean running_var num_batches_tracked",
    "backward": "dx dresidual dweight dbias",
}


def arguments(function: str, rank: Rank) -> dict[str, Any]:
    backward = function in ("grad_moments", "grad_input")
    renamed = {"wire": "grad_wire", "total": "grad_total"} if backward else {}
    given = {name: rank.array(renamed.get(name, name)) for name in CALLS[function].split()}
    given |= {"options": rank.options, "workspace": workspace(rank.sizes.workspace)}
    if function in GROUPS:
        given["group_size"] = 1
    if function in ONE_CALL:
        given["comm"] = None
    return given


def invoke(function: str, given: dict[str, Any]) -> None:
    scratch = given["workspace"]
    if isinstance(scratch, Buffer):
        given = given | {"workspace": scratch.array}
    getattr(_core, function)(**given)


def assert_refused(
    function: str, rank: Rank, error: type[Exception], names: str, **replaced: Any
) -> None:
    """The call fails with `error`, its message holds `names`, no buffer of the rank changes."""
    before = {name: buffer.bits for name, buffer in {**rank.out, **given_of(rank)}.items()}
    with pytest.raises(error) as caught:
        invoke(function, arguments(function, rank) | replaced)
    assert names in str(caught.value), str(caught.value)
    after = {name: buffer.bits for name, buffer in {**rank.out, **given_of(rank)}.items()}
    assert after == before, "something was written"


def given_of(rank: Rank) -> dict[str, Buffer]:
    return {name: buffer for name, buffer in rank.given.items() if buffer is not None}


def buffer_of(rank: Rank, function: str, name: str) -> Buffer:
    backward = function in ("grad_moments", "grad_input") and name in ("wire", "total")
    name = {"wire": "grad_wire", "total": "grad_total"}[name] if backward else name
    return rank.out.get(name) or rank.given[name]


EVERY_ARRAY = [(function, name) for function, text in CALLS.items() for name in text.split()]
DATA = ("x", "y", "dy", "residual", "dx", "dresidual")
PARAMETERS = ("weight", "bias", "running_mean", "running_var", "dweight", "dbias")
WIRES = ("wire", "total", "center_wire", "center_total")
REQUIRED = [
    (function, name)
    for function, name in EVERY_ARRAY
    if name in ("x", "dy", "wire", "total", "center_wire")
    or (name == "saved" and "backward" in function + "grad_")
]


def array_like(buffer: Buffer, **changed: Any) -> _core.Array:
    pointer = changed.get("pointer", buffer.bytes.ctypes.data)
    shape = changed.get("shape", buffer.shape)
    strides = changed.get("strides", dense_strides(shape, "first"))
    return _core.Array(
        pointer,
        shape,
        strides,
        changed.get("dtype", buffer.dtype),
        **({"device": changed["device"]} if "device" in changed else {}),
        **({"read_only": True} if changed.get("read_only") else {}),
    )
