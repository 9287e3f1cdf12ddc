"""The calls of ops/kernels.py fit the core's signatures, on a CUDA device too.

No GPU is needed: the input says that it is on one, and the core's functions are replaced.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from syncnorm import Options, _core
from syncnorm.torch.ops import kernels, stream

ROOT = Path(__file__).resolve().parents[3]
STREAM = 7
ON_DEVICE = {"workspace", "stream", "control"}


def signatures() -> dict[str, inspect.Signature]:
    """Return the signatures of the core's functions of a tensor, as _core.pyi has them."""
    stub = ast.parse((ROOT / "python/syncnorm/_core.pyi").read_text(encoding="utf-8"))
    functions = [node for node in stub.body if isinstance(node, ast.FunctionDef)]
    return {
        function.name: signature_of(function.args)
        for function in functions
        if "num_threads" in {argument.arg for argument in function.args.kwonlyargs}
    }


def signature_of(arguments: ast.arguments) -> inspect.Signature:
    others = (arguments.posonlyargs, arguments.defaults, arguments.vararg, arguments.kwarg)
    assert not any(others)
    kind = inspect.Parameter
    return inspect.Signature(
        [
            *(kind(each.arg, kind.POSITIONAL_OR_KEYWORD) for each in arguments.args),
            *(
                kind(each.arg, kind.KEYWORD_ONLY, default=kind.empty if value is None else None)
                for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            ),
        ]
    )


SIGNATURES = signatures()


class OnDevice(Tensor):
    """A tensor of the CPU that says that it is on a CUDA device."""

    is_cuda = True
    device = torch.device("cuda", 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[inspect.BoundArguments]]:
    """The calls of the core's functions, bound to their signatures; nothing is computed."""
    made: list[inspect.BoundArguments] = []
    sizes = SimpleNamespace(wire=10, center_wire=5, grad_wire=8, saved=11, workspace=64)
    monkeypatch.setattr(_core, "sizes", lambda *_: sizes)
    for name, signature in SIGNATURES.items():

        def call(*args: Any, signature: Any = signature, **kwargs: Any) -> None:
            made.append(signature.bind(*args, **kwargs))

        monkeypatch.setattr(_core, name, call)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=STREAM))
    control, word = torch.zeros(8), SimpleNamespace(array="the status word")
    with (
        mock.patch.dict(stream._controls, {(0, STREAM): control}),
        mock.patch.dict(stream._status_words, {0: word}),
    ):
        yield made


def run(name: str, x: Tensor) -> None:
    """Call a function of kernels.py on x, with something for each of its parameters."""
    function, given = getattr(kernels, name), torch.ones(3)
    special = {
        "options": Options(activation="relu"),
        "x": x,
        "wanted": (True, True, True, True),
        "running": kernels.Running(given, given, given),
        "communicator": None,
        "group_size": 2,
        "tag": 3,
        "keep": True,
        "new_wire": kernels.vector,
    }
    parameters = inspect.signature(function).parameters
    if "arguments" in parameters:
        passes = kernels.backward_arguments if "dy" in parameters else kernels.forward_arguments
        names = inspect.signature(passes).parameters.keys() - {"status"}
        special["arguments"] = passes(**{each: special.get(each, given) for each in names})
    function(**{each: special.get(each, given) for each in parameters})


def test_the_stub_and_the_kernels_name_the_same_functions() -> None:
    assert set(SIGNATURES) == {
        "moments",
        "center",
        "normalize",
        "update_running",
        "grad_moments",
        "grad_input",
        "forward",
        "backward",
        "infer",
        "infer_backward",
    }
    assert {name for name in vars(kernels) if hasattr(_core, name)} >= set(SIGNATURES)


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize("capturing", [False, True])
def test_on_a_device(
    name: str,
    capturing: bool,
    calls: list[inspect.BoundArguments],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    run(name, torch.ones(4, 3).as_subclass(OnDevice))
    (call,) = calls
    arguments = call.arguments
    takes_status = "status" in SIGNATURES[name].parameters
    assert takes_status is (name not in ("infer", "infer_backward"))
    assert arguments.keys() >= ON_DEVICE | ({"status"} if takes_status else set())
    assert "num_threads" not in arguments
    assert arguments["stream"] == STREAM
    assert arguments["workspace"].nbytes == 64
    assert arguments.get("status", "the status word") == "the status word"
    # A captured graph may be replayed on any stream.
    assert (arguments["control"] is None) is capturing


@pytest.mark.parametrize("name", SIGNATURES)
def test_on_the_cpu(name: str, calls: list[inspect.BoundArguments]) -> None:
    run(name, torch.ones(4, 3))
    (call,) = calls
    assert call.arguments["num_threads"] == torch.get_num_threads()
    assert call.arguments.keys().isdisjoint(ON_DEVICE | {"status"})


@pytest.mark.parametrize("name", sorted(set(SIGNATURES) - {"infer", "infer_backward"}))
def test_the_tag_is_passed_on(name: str, calls: list[inspect.BoundArguments]) -> None:
    run(name, torch.ones(4, 3))
    assert calls[0].arguments["tag"] == 3
