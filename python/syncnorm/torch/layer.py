"""SyncBatchNorm, the layer, and its variants for inputs of 2 to 5 dimensions."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

# By name: programs set torch.nn.BatchNorm2d to one of the layers below.
from torch.nn.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, _BatchNorm
from torch.nn.modules.module import register_module_module_registration_hook

from syncnorm import InvalidArgumentError
from syncnorm.settings import CHOICES, Settings, core_options, wrong_type

from .call import Affine, Call, LayerChoices
from .dispatch import batch_norm, batch_norm_list
from .groups.pickling import HasProcessGroup
from .groups.process_group import ALONE, check_timeout
from .groups.relative import chosen_group
from .ops.kernels import NO_STATISTICS, Running
from .ops.layout import check_channels, check_flag
from .ops.lengths import mask_of_lengths
from .tracing import call_module, is_proxy

if TYPE_CHECKING:
    from typing_extensions import Unpack

# The keyword-only options, with their defaults.
OPTIONS: dict[str, Any] = {**CHOICES, "freeze": False, "timeout": None}

# What SyncBatchNorm adds to the attributes of torch's batch normalization.
OWN_ATTRIBUTES = (*OPTIONS, "layer_name", "process_group")


class SyncBatchNorm(HasProcessGroup, _BatchNorm):
    """Batch normalization with statistics over all ranks of a process group.

    In training the ranks all-reduce one small vector in forward and one in backward; the result is
    that of one big batch, however it is divided. In evaluation the running statistics are used and
    no rank communicates. The state dict is that of torch's own batch normalization.

    Args:
        num_features: C, for inputs (N, C, ...).
        eps, momentum, affine, track_running_stats, device, dtype, bias: As in torch.nn.BatchNorm2d.
        process_group: A torch.distributed ProcessGroup, a DeviceMesh of one dimension such as
            mesh["dp"], a list of global ranks, "node" (the ranks of this machine), a
            syncnorm.Communicator, or None: the default group of torch.distributed, or a world of
            one if that is not initialized.
        name: Identifies the layer to the other ranks and in error messages; the attribute is
            layer_name. Without one it is the order of first use that identifies it.
        group_size: Divide the default group into groups of this many neighbours in rank order
            (for 2 the ranks 0-1, 2-3, ...), in place of process_group.
        weighting: "count" (every value counts equally), "equal" (every rank) or "batch" (every
            sample).
        eps_mode: "add", 1/sqrt(var + eps), or "max", 1/sqrt(max(var, eps)).
        variance_factor: Applied to the variance that enters running_var: "unbiased", "biased",
            "unbiased_local" or "unbiased_rank".
        grad_reduction: What the gradients of weight and bias contain: the "local" rank's part (for
            DistributedDataParallel), or the "sum" or "mean" over the group.
        centering: "auto", "on" or "off": a second all-reduce, after which the variance is as
            accurate as if the mean were zero. "auto" is on for float64 input.
        activation: "identity", "relu", "elu" or "leaky_relu" with negative_slope, on the output.
        in_place: Overwrite the input with the output; backward then computes from the output. Not
            with "relu" or a residual. docs/pytorch.md gives its cost in accuracy.
        freeze: Use the running statistics in training too and do not update them; weight and bias
            get no gradient and no rank communicates. May be set at any time, alike on all ranks.
        timeout: Seconds that an all-reduce of a process group may take; None: the group's timeout.

    Raises:
        InvalidArgumentError: An option has a value that is not listed. It is a ValueError.
    """

    # The defaults in OPTIONS are class attributes, too: see below.
    weighting: str
    eps_mode: str
    variance_factor: str
    grad_reduction: str
    centering: str
    activation: str
    negative_slope: float
    in_place: bool
    freeze: bool
    timeout: float | None

    # convert_sync_batchnorm; set by .conversion, which imports this module.
    converter: ClassVar[Callable[..., nn.Module]]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        name: str | None = None,
        group_size: int | None = None,
        **choices: Unpack[LayerChoices],
    ) -> None:
        # Not that of the next class: after install() it is torch's SyncBatchNorm, and in a subclass
        # it may be a class of another library.
        _BatchNorm.__init__(
            self, num_features, eps, momentum, affine, track_running_stats, device, dtype
        )
        if not bias:  # the base class of torch 2.10 has no such argument
            self.register_parameter("bias", None)
        self._set_group(process_group, name, group_size)
        self.set_options({**OPTIONS, **choices})

    def set_options(self, choices: dict[str, Any]) -> None:
        """Set these options; raise for one that is unknown or has a value that is not allowed."""
        options = {name: getattr(self, name) for name in OPTIONS} | choices
        check_options(options, self.momentum)  # eps is checked in forward, as in torch
        if options["freeze"] and not self.track_running_stats:
            raise InvalidArgumentError("freeze: got True, which needs track_running_stats=True")
        vars(self).update(options)
        vars(self).pop("_settings", None)
        if self._chosen():
            warn_of_lost_options()

    def _chosen(self) -> list[str]:
        """Return name=value for each option that is not the default, after the group's."""
        options = [
            f"{name}={getattr(self, name)!r}"
            for name, default in OPTIONS.items()
            if getattr(self, name) != default
        ]
        return [*self._group_repr(), *options]

    def reset_parameters(self) -> None:
        """Set weight to 1, bias to 0 and reset the running statistics."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "freeze":
            check_flag(value, name)
        elif name == "timeout":
            check_timeout(value)
        super().__setattr__(name, value)
        if name in Settings._fields:
            vars(self).pop("_settings", None)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        vars(self).pop("_settings", None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        vars(self).pop("_settings", None)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_settings", None)  # a later version may have other fields
        return state

    def _current_settings(self) -> Settings:
        """Return the settings; cached until an attribute is set, except while compiling."""
        settings = Settings(*[getattr(self, name) for name in Settings._fields])
        if not is_dynamo_compiling():
            vars(self)["_settings"] = settings
        return settings

    def _check_input_dim(self, input: Tensor) -> None:
        """Raise unless input is (N, num_features, ...)."""
        if (
            not isinstance(input, Tensor)
            or input.is_nested
            or input.dim() < 2
            # A tensor, neither True nor False, while torch.jit traces.
            or (input.shape[1] != self.num_features) is not False
        ):
            check_channels(input, self.num_features)

    def forward(
        self,
        input: Tensor | Sequence[Tensor],
        residual: Tensor | Sequence[Tensor | None] | None = None,
        mask: Tensor | Sequence[Tensor | None] | None = None,
        lengths: Tensor | Sequence[Tensor | None] | None = None,
    ) -> Any:
        """Return activation(batch_norm(input) + residual), of the shape and dtype of input.

        Args:
            input: (N, C, ...). A list, also of tensors on different devices, is one batch and gives
                a list; residual, mask and lengths are then lists too. In training a list is refused
                if the group has more than one rank.
            residual: Of input's shape and dtype.
            mask: bool or uint8, (N, *spatial) or (N, 1, *spatial). Positions with 0 are normalized
                but do not count in the statistics of the batch. In input's shape: for each channel
                its own, which costs one all-reduce per channel. A key_padding_mask of attention is
                the opposite: True at padding.
            lengths: Integers (N,), in place of a mask: sample n counts with its first lengths[n]
                positions of the last axis, as with the mask arange(L) < lengths[:, None].

        In evaluation mask and lengths are not used.
        """
        normalize: Callable[..., Any] = batch_norm
        if isinstance(input, Tensor):
            self._check_input_dim(input)
        elif is_proxy(input):
            others = {"residual": residual, "mask": mask, "lengths": lengths}
            return call_module(self, SyncBatchNorm, input, **others)
        elif isinstance(input, (list, tuple)):
            normalize = batch_norm_list
            for each in input:
                self._check_input_dim(each)
        else:
            self._check_input_dim(input)  # type: ignore[arg-type]  # raises
        settings = None if is_dynamo_compiling() else vars(self).get("_settings")
        if settings is None:
            settings = self._current_settings()
        # nn.Module looks parameters and buffers up slowly: read each once, directly where possible.
        parameters: dict[str, Any] = self._parameters
        buffers: dict[str, Any] = self._buffers
        weight = parameters["weight"] if "weight" in parameters else self.weight
        bias = parameters["bias"] if "bias" in parameters else self.bias
        mean = buffers["running_mean"] if "running_mean" in buffers else self.running_mean
        var = buffers["running_var"] if "running_var" in buffers else self.running_var
        uses_batch = self.training or mean is None or var is None
        if self.freeze:
            if mean is None or var is None:
                raise InvalidArgumentError(
                    "freeze: the layer has no running statistics; expected freeze=False, or a layer"
                    " created with track_running_stats=True"
                )
            weight = None if weight is None else weight.detach()
            bias = None if bias is None else bias.detach()
            uses_batch = False
        running = NO_STATISTICS
        if not uses_batch or (self.training and self.track_running_stats):
            running = Running(mean, var, buffers.get("num_batches_tracked"))
        if lengths is not None and uses_batch:
            mask = mask_of_lengths(lengths, input, mask)
        call = Call(
            settings,
            uses_batch,
            Affine(weight, bias),
            running,
            residual,
            mask,
            self.current_group() if self._communicates() else ALONE,
            self.layer_name,
            0 if is_dynamo_compiling() else self._number,
            self.timeout,
        )
        return normalize(input, call)

    def _communicates(self) -> bool:
        """Return whether the other ranks of the group take part in a call.

        As in torch only in training: without running statistics an evaluation uses those of this
        rank's batch.
        """
        return self.training

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *self._chosen()])  # type: ignore[no-untyped-call]

    @classmethod
    def convert_sync_batchnorm(
        cls,
        module: nn.Module,
        process_group: Any = None,
        *,
        group_size: int | None = None,
        **choices: Unpack[LayerChoices],
    ) -> nn.Module:
        """Return syncnorm.torch.convert_sync_batchnorm(module, ...) with layers of this class."""
        layer = None if cls.__module__ == __name__ else cls  # None: by the layer's dimensions
        group = chosen_group(process_group, group_size)
        return SyncBatchNorm.converter(module, group, layer=layer, **choices)


# So that modules load that were pickled before an option existed.
for _name, _default in OPTIONS.items():
    setattr(SyncBatchNorm, _name, _default)


@functools.cache  # in the first layer that has options to lose
def warn_of_lost_options() -> None:
    """Warn from now on when torch's converter, or an assignment, replaces a layer with options."""

    def hook(parent: nn.Module, name: str, new: nn.Module | None) -> None:
        old = parent._modules.get(name)  # noqa: SLF001
        if type(new) is nn.SyncBatchNorm and isinstance(old, HasProcessGroup):
            lost = ", ".join(old._chosen())  # noqa: SLF001
            if lost:
                warnings.warn(
                    f"torch.nn.SyncBatchNorm replaces a {type(old).__name__} of syncnorm and loses"
                    f" its {lost}: convert with syncnorm.torch.convert_sync_batchnorm, or call"
                    " syncnorm.torch.install() before torch's converter",
                    stacklevel=3,
                )

    register_module_module_registration_hook(hook)


def check_options(options: dict[str, Any], momentum: float | None = 0.1) -> None:
    """Raise for an option that is unknown or has a value that is not allowed."""
    if unknown := options.keys() - OPTIONS.keys():
        raise TypeError(f"SyncBatchNorm got an unexpected keyword argument {min(unknown)!r}")
    check_flag(options.get("freeze", False), "freeze")
    check_timeout(options.get("timeout"))
    chosen = {name: options[name] for name in CHOICES if name in options}
    settings = Settings(momentum=momentum, **chosen)
    try:
        hash(settings)
    except TypeError as error:
        raise wrong_type(settings) from error
    core_options(settings)


class SyncBatchNorm1d(SyncBatchNorm, BatchNorm1d):
    """SyncBatchNorm that is also an nn.BatchNorm1d, for inputs (N, C) or (N, C, L)."""

    def _check_input_dim(self, input: Tensor) -> None:
        _check_input_dim(BatchNorm1d, self, input)


class SyncBatchNorm2d(SyncBatchNorm, BatchNorm2d):
    """SyncBatchNorm that is also an nn.BatchNorm2d, for inputs (N, C, H, W)."""

    def _check_input_dim(self, input: Tensor) -> None:
        _check_input_dim(BatchNorm2d, self, input)


class SyncBatchNorm3d(SyncBatchNorm, BatchNorm3d):
    """SyncBatchNorm that is also an nn.BatchNorm3d, for inputs (N, C, D, H, W)."""

    def _check_input_dim(self, input: Tensor) -> None:
        _check_input_dim(BatchNorm3d, self, input)


def _check_input_dim(kind: Any, layer: SyncBatchNorm, input: Tensor) -> None:
    SyncBatchNorm._check_input_dim(layer, input)  # noqa: SLF001
    try:
        kind._check_input_dim(layer, input)  # noqa: SLF001
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from None
