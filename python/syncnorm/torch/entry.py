"""One call of batch normalization, handed to whoever computes it for this kind of input."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

# Private, but there is no public way that is quick, and what torch's own code asks.
from torch._C import _len_torch_dispatch_stack
from torch.compiler import is_dynamo_compiling

from . import frozen, synchronized
from .autograd import refuse_transforms
from .options import Settings, core_options
from .resolve import resolve

_PLAIN = (Tensor, nn.Parameter, type(None))


def batch_norm(
    settings: Settings,
    input: Tensor,
    *,
    training: bool,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    process_group: Any = None,
    name: str | None = None,
    timeout: float | None = None,
    repeats_update: bool = False,
) -> Tensor:
    """activation(batch_norm(input) + residual).

    training: with the statistics of the batch over process_group, updating the running statistics
    where they are given; else with the running statistics, and no rank talks to another. name,
    timeout: of the layer, as in TorchGroup. repeats_update: whether a call inside a backward pass,
    which repeats an earlier one, updates too; in compiled code it never does.
    """
    if _any_is_distributed(input, weight, running_mean):
        from . import dtensor

        return dtensor.batch_norm(
            settings,
            input,
            training=training,
            running_mean=running_mean,
            running_var=running_var,
            num_batches_tracked=num_batches_tracked,
            weight=weight,
            bias=bias,
            residual=residual,
            mask=mask,
            process_group=process_group,
            name=name,
            timeout=timeout,
            repeats_update=repeats_update,
        )
    if not training:
        return _infer(settings, input, running_mean, running_var, weight, bias, residual)
    batch: dict[str, Tensor | None] = {
        "weight": weight,
        "bias": bias,
        "residual": residual,
        "mask": mask,
        "running_mean": running_mean,
        "running_var": running_var,
        "num_batches_tracked": num_batches_tracked,
    }
    if _needs_operators(input):
        from .operators import compiled

        return compiled.normalize(settings, process_group, name, input, **batch)
    refuse_transforms(input, weight, bias, residual)
    group = resolve(process_group, name, timeout)
    return synchronized.normalize(
        core_options(settings), group, input, repeats_update=repeats_update, **batch
    )


def _any_is_distributed(input: Tensor, parameter: Tensor | None, buffer: Tensor | None) -> bool:
    """Whether one of these is a DTensor."""
    if type(input) in _PLAIN and type(parameter) in _PLAIN and type(buffer) in _PLAIN:
        return False
    # To import it takes seconds; where nobody did, there is no DTensor.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(
        isinstance(tensor, module.DTensor) for tensor in (input, parameter, buffer)
    )


def _infer(
    settings: Settings,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    if running_mean is None or running_var is None:
        raise ValueError("running_mean and running_var: got None, needed where training is False")
    tensors = {"weight": weight, "bias": bias, "residual": residual}
    if _needs_operators(input):
        from .operators import compiled

        return compiled.infer(settings, input, running_mean, running_var, **tensors)
    refuse_transforms(input, weight, bias, residual)
    return frozen.normalize(core_options(settings), input, running_mean, running_var, **tensors)


def _needs_operators(input: Tensor) -> bool:
    """Whether only what goes through torch's dispatcher is seen, or can be computed."""
    return (
        is_dynamo_compiling()
        or input.is_meta
        or type(input).__torch_dispatch__ is not Tensor.__torch_dispatch__
        or (_len_torch_dispatch_stack() > 0 and _is_traced())
    )


def _is_traced() -> bool:
    """Whether make_fx looks on."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None
