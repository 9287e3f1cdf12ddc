"""Batch normalization of PyTorch-Encoding: its layers, functions and data parallelism."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .conversion.registry import register_own
from .dialects.states import TakesArrays
from .entry import batch_norm
from .module import SyncBatchNorm
from .options import Settings
from .thread_replicas import device_of

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "SelfDataParallel",
    "SelfParallel",
    "batchnormeval",
    "batchnormtrain",
]


class _BatchNorm(TakesArrays, SyncBatchNorm):
    # Of the input: how many it may have, and how the refusal names them.
    dimensions: ClassVar[tuple[int, ...]]
    dimensions_in_words: ClassVar[str]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        process_group: Any = None,
        name: str | None = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            process_group=process_group,
            name=name,
            timeout=timeout,
            device=device,
            dtype=dtype,
        )

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in self.dimensions:
            raise ValueError(f"expected {self.dimensions_in_words} (got {input.dim()}D input)")
        super()._check_input_dim(input)


class BatchNorm1d(_BatchNorm):
    """encoding.nn.BatchNorm1d: batch normalization of (N, C) or (N, C, L) over all devices.

    The input is one tensor, or a list with one for each device, which gives a list: see
    SelfDataParallel. The statistics are those of the whole batch, each value counting alike;
    running_var gets the unbiased variance of the batch.

    num_features, eps, momentum, affine: as in torch.nn.BatchNorm1d. process_group, name, timeout,
    device, dtype: as in syncnorm.torch.SyncBatchNorm, for ranks that are processes.

    A list is one autograd function. The sums of the original, in float32 and by a thread for each
    device that all had to come, are not reproduced: any number of tensors makes a list, also empty
    ones, and the variance cannot become negative.
    """

    dimensions = (2, 3)
    dimensions_in_words = "2D or 3D input"


class BatchNorm2d(_BatchNorm):
    """encoding.nn.BatchNorm2d: batch normalization of (N, C, H, W) over all devices.

    Everything else is as in BatchNorm1d.
    """

    dimensions = (4,)
    dimensions_in_words = "4D input"


register_own(BatchNorm1d)
register_own(BatchNorm2d)


def batchnormtrain(input: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """encoding.functions.batchnormtrain: (input - mean) / std * gamma + beta.

    input: (N, C, ...). gamma, beta, mean, std: (C,); std contains eps already. All five may require
    gradients: with dy the gradient of the result, those of mean and std are
    -gamma/std * sum(dy) and -gamma/std^2 * sum(dy*(input - mean)).
    """
    scale = gamma / std
    # The mean as the core takes it is a constant: it has its gradient, and no value, in the shift.
    shift = beta - (mean - mean.detach()) * scale
    return batch_norm(
        Settings(eps=0.0),
        input,
        training=False,
        running_mean=mean.detach(),
        running_var=torch.ones_like(mean, requires_grad=False),
        weight=scale,
        bias=shift,
    )


def batchnormeval(input: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """encoding.functions.batchnormeval: batchnormtrain with the running mean and deviation.

    Those that require a gradient get it here too; the original has zeros for them.
    """
    return batchnormtrain(input, gamma, beta, mean, std)


class SelfDataParallel(nn.Module):
    """encoding.parallel.SelfDataParallel: a batch divided over devices, for a module of lists.

    In training every input is divided along dim, a part goes to each device, and module is called
    with lists: of every layer in it the tensors of all devices are arguments at once, which is what
    BatchNorm1d and BatchNorm2d need. Other layers are made to take lists by SelfParallel. In
    evaluation nothing has to be synchronized, and the module is called for the parts one by one,
    as a replica on their device. The result is a list, with a result for each part, either way.

    device_ids: a device for each part, as torch.device takes it; None: all CUDA devices. A batch of
    fewer samples than devices is divided over as many as it fills.
    output_device: accepted as in the original, which does not use it either.

    Raises ValueError without a device.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        dim: int = 0,
    ) -> None:
        super().__init__()
        if device_ids is None:
            device_ids = range(torch.cuda.device_count())
        self.device_ids = [device_of(each) for each in device_ids]
        if not self.device_ids:
            raise ValueError(
                "device_ids: got no device, expected one or more; the default, all CUDA devices, is"
                " none on this machine"
            )
        self.output_device = self.device_ids[0] if output_device is None else output_device
        self.dim = dim
        self.module = module.to(self.device_ids[0])

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """kwargs are handed to every call of the module as they are."""
        parts = [_scattered(input, self.device_ids, self.dim) for input in inputs]
        if self.training:
            return self.module(*parts, **kwargs)
        replicas = _replicas(self.module, [part.device for part in parts[0]])
        return [
            replica(*arguments, **kwargs)
            for replica, *arguments in zip(replicas, *parts, strict=True)
        ]


class SelfParallel(nn.Module):
    """Lets a layer take lists: it is applied to each tensor, as a replica on the tensor's device.

    For everything between the normalizations in a SelfDataParallel, as encoding.nn.Conv2d, ReLU and
    others were. A tensor that is not in a list is given to the layer itself. The state dict is that
    of the layer.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.register_load_state_dict_pre_hook(_name_module)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_leave_module_out)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor | Sequence[Tensor]) -> Any:
        if isinstance(input, Tensor):
            return self.module(input)
        replicas = _replicas(self.module, [x.device for x in input])
        return [replica(x) for replica, x in zip(replicas, input, strict=True)]


def _name_module(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}module.{key.removeprefix(prefix)}"] = state.pop(key)


def _leave_module_out(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
    before = f"{prefix}module."
    for key in [key for key in state if key.startswith(before)]:
        state[prefix + key.removeprefix(before)] = state.pop(key)


def _scattered(input: Tensor, devices: Sequence[torch.device], dim: int) -> list[Tensor]:
    if not isinstance(input, Tensor):
        raise TypeError(f"input: got {type(input).__name__}, expected a tensor to divide")
    parts = input.chunk(len(devices), dim)
    return [part.to(device) for part, device in zip(parts, devices, strict=False)]


def _replicas(module: nn.Module, devices: Sequence[torch.device]) -> Sequence[nn.Module]:
    """The module on each of these devices, so that gradients come to its own parameters."""
    if len(set(devices)) <= 1:
        return [module] * len(devices)
    replicas: Sequence[nn.Module] = nn.parallel.replicate(module, devices)
    return replicas
