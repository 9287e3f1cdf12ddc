"""Tracers: a leaf module for torch.fx, and torch's own operators for torch.jit and torch.onnx.

They record modules or operators, not the memory that the core reads and writes.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy, Tracer
from torch.jit import TracerWarning  # type: ignore[attr-defined]
from torch.nn import functional

from syncnorm import UnsupportedError

from .call import Call
from .ops.layout import check_input, is_tracing, residual_like

_REVERT = "the model that syncnorm.torch.revert_sync_batchnorm(model) returns"
_HALF = (torch.float16, torch.bfloat16)


def batch_norm(input: Tensor, call: Call) -> Tensor:
    """Return dispatch.batch_norm(input, call) in evaluation, computed by torch's own operators.

    Raises:
        UnsupportedError: The call needs the statistics of the batch.
    """
    if call.training:
        raise _training_refused()
    check_input(input)
    settings, residual, (mean, var, _) = call.settings, call.residual, call.running
    vectors = [mean, var, *call.affine]
    if any(each is not None and each.dtype is not input.dtype for each in vectors):
        # torch takes parameters of input's dtype, or all of float32 with a 16-bit input.
        dtype = torch.float32 if input.dtype in _HALF else input.dtype
        vectors = [None if each is None else each.to(dtype) for each in vectors]
    mean, var, weight, bias = vectors
    if settings.eps_mode == "max" and var is not None:
        var = (var - settings.eps).clamp(min=0)
    y = functional.batch_norm(input, mean, var, weight, bias, eps=settings.eps)
    if residual is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TracerWarning)  # the sizes are checked, not recorded
            residual_like(residual, input, input)
        y = y + residual
    if settings.activation == "relu":
        return functional.relu(y)
    if settings.activation == "elu":
        return functional.elu(y)
    if settings.activation == "leaky_relu":
        return functional.leaky_relu(y, settings.negative_slope)
    return y


def check_list(call: Call) -> None:
    """Raise UnsupportedError for a call with a list of inputs in training that is traced."""
    if call.training and is_tracing():
        raise _training_refused()


def _training_refused() -> UnsupportedError:
    return UnsupportedError(
        "syncnorm.torch's batch normalization was traced by torch.jit or torch.onnx in a call that"
        " computes the statistics of its batch, which they cannot record; expected evaluation with"
        f" running statistics: call model.eval() first, or trace {_REVERT}"
    )


def is_proxy(value: object) -> bool:
    """Return whether torch.fx traces the value."""
    return isinstance(value, Proxy)


def refuse_proxy(residual: object) -> None:
    """Raise UnsupportedError if torch.fx traces the residual, and not the input."""
    if is_proxy(residual):
        raise UnsupportedError(
            "torch.fx cannot record a batch normalization of a constant input with a traced"
            " residual; expected an input that depends on the inputs of the traced module"
        )


def call_module(layer: nn.Module, kind: type[nn.Module], input: Any, **others: Any) -> Any:
    """Record a call of the layer as one node of a torch.fx graph, as of the layers of torch.nn.

    Tracer.is_leaf_module cannot name it: it goes by the module of the class, "torch.nn".

    Args:
        input: A Proxy.
        kind: The class with the forward that is being traced.
        others: Further arguments of forward; None is left out.

    Raises:
        UnsupportedError: The graph would contain a part of the call twice, or has no such module.
    """
    tracer, reason = input.tracer, None
    if getattr(layer.forward, "__func__", None) is not kind.forward:
        reason = f"its forward is not that of {kind.__qualname__} alone"
    elif layer._forward_pre_hooks or layer._forward_hooks:  # noqa: SLF001 - no public way
        reason = "it has forward hooks, which would run while tracing and again in the graph"
    elif not isinstance(tracer, Tracer) or tracer.root is layer:
        reason = "it is not a submodule of the traced module"
    if reason is not None:
        raise UnsupportedError(
            f"torch.fx cannot record a call of {type(layer).__qualname__} as one node: {reason};"
            " expected a submodule with SyncBatchNorm's forward and no hooks: trace with a Tracer"
            f" that has it in is_leaf_module, or trace {_REVERT}"
        )
    given = {name: value for name, value in others.items() if value is not None}
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), (input,), given)
