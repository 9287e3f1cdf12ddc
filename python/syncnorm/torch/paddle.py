"""paddle.nn.SyncBatchNorm, over the core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from .conversion.convert import replace_modules, take_over
from .conversion.registry import NotConvertible, conversion_of
from .dialects.initializers import Initializer, fill
from .dialects.layer import DialectLayer
from .options import CHOICES, Settings
from .tensors import check_channels

__all__ = ["ParamAttr", "SyncBatchNorm", "convert_sync_batchnorm"]

_CHANNELS_FIRST = ("NC", "NCL", "NCHW", "NCDHW")
_CHANNELS_LAST = ("NLC", "NHWC", "NDHWC")


@dataclass(frozen=True)
class ParamAttr:
    """paddle.ParamAttr, as far as a layer heeds it.

    name: kept, and without meaning here. initializer: a number, a function that fills a tensor in
    place, such as torch.nn.init.ones_, or "zeros", "ones", "uniform", "normal". trainable: whether
    the parameter gets a gradient. learning_rate: 1, or 0, which is trainable=False; other values
    and a regularizer belong into the parameter groups of a torch optimizer, and are refused.
    """

    name: str | None = None
    initializer: Initializer | None = None
    learning_rate: float = 1.0
    regularizer: Any = None
    trainable: bool = True


class SyncBatchNorm(DialectLayer):
    """paddle.nn.SyncBatchNorm: its arguments, defaults, conventions and state dict.

    momentum: running = momentum*running + (1 - momentum)*batch, with the biased variance. All
    values of the mini-batch count alike.
    weight_attr, bias_attr: None: weight 1 and bias 0 to start with; False: constant, without a
    gradient; a ParamAttr or an object with its attributes; a str, which names the parameter; or an
    initializer: a number or a function that fills a tensor in place.
    data_format: "NC", "NCL", "NCHW", "NCDHW": the channels are dimension 1; "NLC", "NHWC", "NDHWC":
    the last one. The input has 2 to 5 dimensions, whatever their number in data_format is.
    name: of the layer, in messages about ranks that disagree.
    process_group: the ranks, all where it is None, as in syncnorm.torch.SyncBatchNorm, and so are
    timeout, device and dtype; paddle does not have them.

    The state dict has paddle's names: weight, bias, _mean, _variance; also of a constant weight.

    Differences, where paddle is wrong: forward and backward weigh the ranks alike, by their number
    of values, while some of its kernels have ranks count alike in one of them, so that unequal
    batches have wrong gradients there; the variance cannot become negative.

    Raises ValueError for another data_format, attribute, number of dimensions or of channels.
    """

    def __init__(
        self,
        num_features: int,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        weight_attr: Any = None,
        bias_attr: Any = None,
        data_format: str = "NCHW",
        name: str | None = None,
        *,
        process_group: Any = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(process_group, name, timeout)
        self._channels_last = _is_channels_last(data_format)
        self._num_features = num_features
        self._momentum = momentum
        self._epsilon = epsilon
        self._data_format = data_format

        def vector() -> Tensor:
            return torch.empty(num_features, device=device, dtype=dtype)

        self.weight = _parameter(vector(), weight_attr, "weight_attr", 1.0)
        self.bias = _parameter(vector(), bias_attr, "bias_attr", 0.0)
        self._mean: Tensor
        self._variance: Tensor
        self.register_buffer("_mean", nn.init.zeros_(vector()))
        self.register_buffer("_variance", nn.init.ones_(vector()))

    def forward(self, input: Tensor) -> Tensor:
        if not 2 <= input.dim() <= 5:
            raise ValueError(f"expected 2D to 5D input (got {input.dim()}D input)")
        channels = input.dim() - 1 if self._channels_last else 1
        check_channels(input, self._num_features, channels)
        y: Tensor = self._batch_norm(
            Settings(self._epsilon, 1 - self._momentum, variance_factor="biased"),
            input.movedim(channels, 1),
            training=self.training,
            running_mean=self._mean,
            running_var=self._variance,
            weight=self.weight,
            bias=self.bias,
        )
        return y.movedim(1, channels)

    @classmethod
    def convert_sync_batchnorm(cls, layer: nn.Module) -> nn.Module:
        """convert_sync_batchnorm of this module."""
        return replace_modules(layer, _converted, "convert_sync_batchnorm")

    def extra_repr(self) -> str:
        # As paddle has it.
        main = (
            f"num_features={self._num_features}, momentum={self._momentum}, epsilon={self._epsilon}"
        )
        if self._data_format != "NCHW":
            main += f", data_format={self._data_format}"
        return main if self.layer_name is None else f"{main}, name={self.layer_name}"


def convert_sync_batchnorm(layer: nn.Module) -> nn.Module:
    """paddle.nn.SyncBatchNorm.convert_sync_batchnorm: BatchNorm layers become SyncBatchNorm.

    Of torch's batch normalizations and syncnorm's, in place; returns layer, or its replacement if
    it is one itself. The new layers have the same parameters, buffers, hooks and mode, and paddle's
    names for them. A layer that is used under several names stays one. Layers that paddle's cannot
    stand in for (without running statistics, with momentum=None, lazy, with methods, modules or
    options of their own) are left as they are, with a warning.
    """
    return replace_modules(layer, _converted, "convert_sync_batchnorm")


# What a torch layer has that paddle's has under another name.
_TORCH_ATTRIBUTES = ("num_features", "eps", "momentum", "affine", "track_running_stats")

# The options of syncnorm's layers whose value does not matter to paddle's.
_IMMATERIAL = ("variance_factor", "centering", "negative_slope")


def _converted(old: nn.Module, path: str) -> nn.Module:
    if not isinstance(old, _BatchNorm):
        return old
    _require_paddles(old)
    buffers = vars(old)["_buffers"]
    statistics = {"_mean": buffers["running_mean"], "_variance": buffers["running_var"]}
    new = SyncBatchNorm(
        old.num_features,
        1 - old.momentum,  # type: ignore[operator]  # not None: see _require_paddles
        old.eps,
        weight_attr=False if old.weight is None else None,
        bias_attr=False if old.bias is None else None,
        name=path or None,
        process_group=getattr(old, "process_group", None),
        device=buffers["running_mean"].device,
        dtype=buffers["running_mean"].dtype,
    )
    given = {name: p for name, p in vars(old)["_parameters"].items() if p is not None}
    parameters = {**vars(new)["_parameters"], **given}
    take_over(new, old, _parameters=parameters, _buffers=statistics)
    for name in _TORCH_ATTRIBUTES:
        vars(new).pop(name, None)
    return new


def _require_paddles(old: Any) -> None:
    if conversion_of(old) is not None:  # which raises for what a subclass has added
        raise NotConvertible("is of a kind that has a conversion of its own")
    if isinstance(old, _LazyNormBase):
        raise NotConvertible("is lazy: run one batch through it first")
    if old.running_mean is None or not old.track_running_stats:
        raise NotConvertible("has no running statistics")
    if old.momentum is None:
        raise NotConvertible("has momentum=None")
    if modules := vars(old)["_modules"]:  # such as the activation of a SyncBatchNormAct
        raise NotConvertible(f"has modules of its own: {', '.join(modules)}")
    for name, value in {**CHOICES, "freeze": False}.items():
        if name not in _IMMATERIAL and getattr(old, name, value) != value:
            raise NotConvertible(f"has {name}={getattr(old, name)!r}")


def _is_channels_last(data_format: str) -> bool:
    if data_format in _CHANNELS_FIRST or data_format in _CHANNELS_LAST:
        return data_format in _CHANNELS_LAST
    raise ValueError(
        "expected 'NCDHW', 'NDHWC', 'NCL', 'NLC', 'NC', 'NCHW', 'NHWC' for data_format,"
        f" got {data_format!r}"
    )


def _parameter(tensor: Tensor, attr: Any, argument: str, default: float) -> nn.Parameter:
    if attr is False:
        attr = ParamAttr(trainable=False)
    elif attr is None or attr is True:
        attr = ParamAttr()
    elif isinstance(attr, str):
        attr = ParamAttr(name=attr)
    elif not hasattr(attr, "initializer"):
        attr = ParamAttr(initializer=attr)
    rate, regularizer = getattr(attr, "learning_rate", 1.0), getattr(attr, "regularizer", None)
    if rate not in (0.0, 1.0) or regularizer is not None:
        raise ValueError(
            f"{argument}: got learning_rate={rate} and regularizer={regularizer!r}, expected 1 or 0"
            " and None: torch's optimizers take both by parameter groups"
        )
    fill(tensor, default if attr.initializer is None else attr.initializer, argument)
    return nn.Parameter(tensor, requires_grad=getattr(attr, "trainable", True) and rate != 0)
