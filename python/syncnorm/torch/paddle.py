"""paddle.nn.SyncBatchNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from syncnorm import InvalidArgumentError
from syncnorm.settings import Settings

from .call import Affine
from .conversion.convert import for_each_layer, swap
from .conversion.registry import NotConvertible, conversion_of
from .dialects import DialectLayer, Initializer, batch_momentum, filler
from .layer import OPTIONS
from .ops.layout import check_channels, check_tensor
from .tracing import call_module, is_proxy

__all__ = ["ParamAttr", "SyncBatchNorm", "convert_sync_batchnorm"]

_CHANNELS_LAST = ("NDHWC", "NLC", "NHWC")
_DATA_FORMATS = ("NCDHW", "NDHWC", "NCL", "NLC", "NC", "NCHW", "NHWC")

# Of paddle's L1Decay and L2Decay, in new and old versions.
_COEFFICIENTS = ("_coeff", "_regularization_coeff")

# Options of SyncBatchNorm that make no difference to paddle's layer.
_IMMATERIAL = ("variance_factor", "centering", "negative_slope", "timeout")


@dataclass(frozen=True)
class ParamAttr:
    """paddle.ParamAttr, as far as a layer uses it.

    Attributes:
        name: Unused.
        initializer: A number, a function that fills a tensor in place such as torch.nn.init.ones_,
            or "zeros", "ones", "uniform", "normal".
        learning_rate: 1, or 0, which means trainable=False. torch optimizers take other values, and
            a regularizer, in their parameter groups.
        regularizer: None, or one with the coefficient 0, such as L2Decay(0.0). It does not exempt
            the parameter from an optimizer's weight_decay: a parameter group does.
        trainable: The parameter gets a gradient.
    """

    name: str | None = None
    initializer: Initializer | None = None
    learning_rate: float = 1.0
    regularizer: Any = None
    trainable: bool = True


class SyncBatchNorm(DialectLayer):
    """paddle.nn.SyncBatchNorm, with its arguments, defaults, conventions and state dict.

    Every value of the mini-batch counts equally. The state dict has paddle's names: weight, bias,
    _mean, _variance; also of a constant weight.

    Differences where paddle is wrong: forward and backward both weight ranks by their number of
    values, so that gradients of unequal batches are right; the variance cannot become negative.

    Args:
        momentum: running = momentum*running + (1 - momentum)*batch, with the biased variance.
        weight_attr, bias_attr: None: start with weight 1 and bias 0; False: constant, without a
            gradient; a ParamAttr or an object with its attributes; a str, the parameter's name; or
            an initializer: a number or a function that fills a tensor in place.
        data_format: "NC", "NCL", "NCHW", "NCDHW": channels in dimension 1; "NLC", "NHWC", "NDHWC":
            in the last one. The input has 2 to 5 dimensions with any data_format.
        process_group, group_size, name, timeout, device, dtype: As in syncnorm.torch.SyncBatchNorm.

    Raises:
        InvalidArgumentError: Another data_format, attribute, number of dimensions or of channels.
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
        group_size: int | None = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(process_group, group_size, name, timeout, device)
        if data_format not in _DATA_FORMATS:
            expected = ", ".join(map(repr, _DATA_FORMATS))
            raise InvalidArgumentError(f"expected {expected} for data_format, got {data_format!r}")
        self._channels_last = data_format in _CHANNELS_LAST
        self._num_features = num_features
        self._momentum: float | None = momentum
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
        if is_proxy(input):
            recorded: Tensor = call_module(self, SyncBatchNorm, input)
            return recorded
        check_tensor(input)
        if not 2 <= input.dim() <= 5:
            raise InvalidArgumentError(f"expected 2D to 5D input (got {input.dim()}D input)")
        channels = input.dim() - 1 if self._channels_last else 1
        check_channels(input, self._num_features, channels)
        y: Tensor = self._batch_norm(
            Settings(self._epsilon, batch_momentum(self._momentum), variance_factor="biased"),
            input.movedim(channels, 1),
            self.training,
            affine=Affine(self.weight, self.bias),
            running=self._running(),
        )
        return y.movedim(1, channels)

    # The names of torch's _BatchNorm, for update_bn and SWA.

    @property
    def momentum(self) -> float | None:
        return self._momentum

    @momentum.setter
    def momentum(self, momentum: float | None) -> None:
        self._momentum = momentum

    @property
    def running_mean(self) -> Tensor:
        return self._mean

    @running_mean.setter
    def running_mean(self, mean: Tensor) -> None:
        self._mean = mean

    @property
    def running_var(self) -> Tensor:
        return self._variance

    @running_var.setter
    def running_var(self, var: Tensor) -> None:
        self._variance = var

    @classmethod
    def convert_sync_batchnorm(cls, layer: nn.Module) -> nn.Module:
        """Return convert_sync_batchnorm(layer) of this module."""
        return for_each_layer(layer, _convert, "convert_sync_batchnorm")

    def extra_repr(self) -> str:
        text = f"num_features={self._num_features}, momentum={self._momentum}"
        text += f", epsilon={self._epsilon}"
        if self._data_format != "NCHW":
            text += f", data_format={self._data_format}"
        return text if self.layer_name is None else f"{text}, name={self.layer_name}"


def convert_sync_batchnorm(layer: nn.Module) -> nn.Module:
    """Make torch's and syncnorm's batch normalizations paddle's SyncBatchNorm; return layer.

    In place: the layers stay the same objects, with their parameters, buffers, hooks and mode, but
    paddle's names. Layers that paddle's cannot replace (without running statistics, with
    momentum=None, lazy, with methods, modules or options of their own) are left, with a warning.
    """
    return for_each_layer(layer, _convert, "convert_sync_batchnorm")


def _convert(old: nn.Module, path: str) -> None:
    if not isinstance(old, _BatchNorm) or isinstance(old, DialectLayer):
        return
    _require_convertible(old)
    mean: Any = old.running_mean  # neither it nor the momentum is None
    statistics = {"_mean": mean, "_variance": old.running_var}
    statistics["num_batches_tracked"] = old.num_batches_tracked
    group = getattr(old, "process_group", None)
    new = SyncBatchNorm(
        old.num_features,
        1 - old.momentum,  # type: ignore[operator]
        old.eps,
        weight_attr=False if old.weight is None else None,
        bias_attr=False if old.bias is None else None,
        name=path or None,
        device=mean.device,
        dtype=mean.dtype,
    )
    made = vars(new)["_parameters"]
    constants = {name: made[name] for name in made if getattr(old, name) is None}
    swap(old, new)
    state = vars(old)
    state.update(_buffers=statistics, process_group=group, layer_name=path or None)
    state["_parameters"].update(constants)
    for name in ("num_features", "eps", "momentum", "affine", "track_running_stats"):
        state.pop(name, None)  # paddle's layer has them under other names
    state["_non_persistent_buffers_set"] = {"num_batches_tracked"}


def _require_convertible(old: Any) -> None:
    if conversion_of(old) is not None:  # raises for what a subclass has added
        raise NotConvertible("is of a kind that has a conversion rule")
    if isinstance(old, _LazyNormBase):
        raise NotConvertible("is lazy: run one batch through it first")
    if old.running_mean is None or not old.track_running_stats:
        raise NotConvertible("has no running statistics")
    if old.momentum is None:
        raise NotConvertible("has momentum=None")
    if modules := vars(old)["_modules"]:  # such as the activation of a SyncBatchNormAct
        raise NotConvertible(f"has modules of its own: {', '.join(modules)}")
    for name, value in OPTIONS.items():
        if name not in _IMMATERIAL and getattr(old, name, value) != value:
            raise NotConvertible(f"has {name}={getattr(old, name)!r}")


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
    coefficients = [getattr(regularizer, name, None) for name in _COEFFICIENTS]
    if rate not in (0.0, 1.0) or not (regularizer is None or 0 in coefficients):
        raise InvalidArgumentError(
            f"{argument}: got learning_rate={rate} and regularizer={regularizer!r}, expected 1 or 0"
            " and None or one with the coefficient 0: torch optimizers take both in their parameter"
            " groups"
        )
    with torch.no_grad():
        filler(default if attr.initializer is None else attr.initializer, argument)(tensor)
    return nn.Parameter(tensor, requires_grad=getattr(attr, "trainable", True) and rate != 0)
