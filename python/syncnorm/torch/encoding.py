"""The layers, functions and data parallelism of PyTorch-Encoding.

SyncBatchNorm, DistSyncBatchNorm and BatchNorm3d are those from v1.0 on, the others up to v0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from syncnorm import ArgumentTypeError, InvalidArgumentError
from syncnorm.settings import Settings

from .call import Affine, Call
from .dialects import LoadsArrays
from .dispatch import batch_norm
from .groups.thread_replicas import device_of
from .layer import SyncBatchNorm as _SyncBatchNorm
from .ops.kernels import Running
from .ops.layout import check_input, check_tensor

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "DistSyncBatchNorm",
    "SelfDataParallel",
    "SelfParallel",
    "SyncBatchNorm",
    "batchnormeval",
    "batchnormtrain",
]


class _BatchNorm(LoadsArrays, _SyncBatchNorm):
    dimensions: ClassVar[tuple[int, ...]]  # numbers of dimensions that an input may have

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        process_group: Any = None,
        name: str | None = None,
        group_size: int | None = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        arguments = (num_features, eps, momentum, affine, True, process_group, device, dtype)
        super().__init__(*arguments, name=name, group_size=group_size, timeout=timeout)

    def _check_input_dim(self, input: Tensor) -> None:
        check_tensor(input)
        if input.dim() not in self.dimensions:
            expected = " or ".join(f"{dimension}D" for dimension in self.dimensions)
            raise InvalidArgumentError(f"expected {expected} input (got {input.dim()}D input)")
        super()._check_input_dim(input)


class BatchNorm1d(_BatchNorm):
    """encoding.nn.BatchNorm1d up to v0.5: normalize (N, C) or (N, C, L) over all devices.

    The input is one tensor, or a list with one per device, which gives a list: see
    SelfDataParallel. Every value of the batch counts equally; running_var gets the unbiased
    variance. Unlike in the original a list may have any number of tensors, also empty ones, and the
    variance, summed in float64, cannot become negative.

    Args:
        num_features, eps, momentum, affine: As in torch.nn.BatchNorm1d.
        process_group, group_size, name, timeout, device, dtype: As in syncnorm.torch.SyncBatchNorm,
            for ranks that are processes.
    """

    dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """encoding.nn.BatchNorm2d: as BatchNorm1d, for inputs (N, C, H, W)."""

    dimensions = (4,)


class SyncBatchNorm(LoadsArrays, _SyncBatchNorm):
    """encoding.nn.SyncBatchNorm from v1.0 on, for inputs (N, C, ...).

    Every rank counts equally, with any number of values; running_var gets the biased variance. As
    in BatchNorm1d a list of tensors, one per device, is one batch.

    Differences where the original fails or is wrong: an evaluation applies the activation, too; an
    activation needs no inplace=True; a device without values does not count.

    Args:
        num_features, eps, momentum: As in torch.nn.BatchNorm2d.
        sync: False: use the statistics of this rank alone. May be set at any time, alike on all
            ranks.
        activation: "none" or "leaky_relu", or another one of syncnorm.torch.SyncBatchNorm.
        slope: The negative slope of "leaky_relu".
        inplace: Overwrite the input, if the activation has an inverse: "leaky_relu" or "elu".
        process_group, group_size, name, timeout, device, dtype: As in syncnorm.torch.SyncBatchNorm.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        sync: bool = True,
        activation: str = "none",
        slope: float = 0.01,
        inplace: bool = True,
        *,
        process_group: Any = None,
        name: str | None = None,
        group_size: int | None = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        applied = "identity" if activation == "none" else activation.lower()
        super().__init__(
            num_features,
            eps,
            momentum,
            process_group=process_group,
            group_size=group_size,
            device=device,
            dtype=dtype,
            name=name,
            weighting="equal",
            variance_factor="biased",
            activation=applied,
            negative_slope=slope,
            in_place=inplace and applied in ("leaky_relu", "elu"),
            timeout=timeout,
        )
        self.sync = sync

    def _communicates(self) -> bool:
        return self.sync and super()._communicates()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sync={self.sync}"


class BatchNorm3d(SyncBatchNorm):
    """encoding.nn.BatchNorm3d from v1.0 on, the deprecated name of SyncBatchNorm."""


class DistSyncBatchNorm(SyncBatchNorm):
    """encoding.nn.DistSyncBatchNorm: as SyncBatchNorm, with fewer arguments.

    Args:
        num_features, eps, momentum: As in torch.nn.BatchNorm2d.
        process_group, group_size, name, timeout, device, dtype: As in syncnorm.torch.SyncBatchNorm.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        process_group: Any = None,
        *,
        name: str | None = None,
        group_size: int | None = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            process_group=process_group,
            group_size=group_size,
            name=name,
            timeout=timeout,
            device=device,
            dtype=dtype,
        )


def batchnormtrain(input: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Compute encoding.functions.batchnormtrain: (input - mean) / std * gamma + beta.

    All arguments may require gradients: with dy that of the result, those of mean and std are
    -gamma/std * sum(dy) and -gamma/std^2 * sum(dy*(input - mean)).

    Args:
        input: (N, C, ...).
        gamma, beta, mean, std: (C,); std already contains eps.
    """
    check_input(input)
    scale = gamma / std
    # The core takes the mean as a constant. This term is 0 and has the gradient of the mean.
    shift = beta - (mean - mean.detach()) * scale
    running = Running(mean.detach(), torch.ones_like(mean, requires_grad=False))
    return batch_norm(input, Call(Settings(eps=0.0), False, Affine(scale, shift), running))


# That of encoding returns zeros as the gradients of mean and std.
batchnormeval = batchnormtrain


class SelfDataParallel(nn.Module):
    """encoding.parallel.SelfDataParallel: divide a batch over devices, for a module of lists.

    In training module is called with a list for each input: its parts along dim, one per device.
    BatchNorm1d and BatchNorm2d take lists, and SelfParallel makes other layers take them. In
    evaluation the module is called for each part, as a replica on its device. Both return a list
    with one result per part.

    Args:
        module: Takes lists in training.
        device_ids: One device per part, as torch.device takes it; None: all CUDA devices. A batch
            with fewer samples than devices uses as many devices as it has samples.
        output_device: Accepted and unused, as in the original.
        dim: The dimension to divide.

    Raises:
        InvalidArgumentError: No device.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        dim: int = 0,
    ) -> None:
        super().__init__()
        ids = range(torch.cuda.device_count()) if device_ids is None else device_ids
        self.device_ids = [device_of(each) for each in ids]
        if not self.device_ids:
            raise InvalidArgumentError(
                "device_ids: got no device, expected one or more; the default is all CUDA devices"
            )
        self.output_device = self.device_ids[0] if output_device is None else output_device
        self.dim = dim
        self.module = module.to(self.device_ids[0])

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Call the module; it gets kwargs unchanged."""
        parts = []
        for input in inputs:
            if not isinstance(input, Tensor):
                got = type(input).__name__
                raise ArgumentTypeError(f"input: got {got}, expected a tensor to divide")
            chunks = zip(input.chunk(len(self.device_ids), self.dim), self.device_ids, strict=False)
            parts.append([chunk.to(device) for chunk, device in chunks])
        if self.training:
            return self.module(*parts, **kwargs)
        replicas = _replicas(self.module, [part.device for part in parts[0]])
        calls = zip(replicas, *parts, strict=True)
        return [replica(*arguments, **kwargs) for replica, *arguments in calls]


class SelfParallel(nn.Module):
    """Apply a layer to each tensor of a list, as a replica on the tensor's device.

    For the other layers in a SelfDataParallel, as encoding.nn.Conv2d, ReLU and others. A tensor
    goes to the layer itself. The state dict is that of the layer.
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


def _replicas(module: nn.Module, devices: Sequence[torch.device]) -> Sequence[nn.Module]:
    """Return the module on each of these devices; gradients flow to its own parameters."""
    if len(set(devices)) <= 1:
        return [module] * len(devices)
    replicas: Sequence[nn.Module] = nn.parallel.replicate(module, devices)
    return replicas
