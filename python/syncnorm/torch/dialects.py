"""The common parts of mxnet.py, paddle.py, encoding.py, mmcv.py and megengine.py.

Each of these has the signatures, names and conventions of another system, and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.modules.batchnorm import _BatchNorm

from syncnorm import InvalidArgumentError
from syncnorm.settings import Settings

from .call import Call
from .dispatch import batch_norm, batch_norm_list
from .groups.pickling import HasProcessGroup
from .groups.process_group import check_timeout
from .layer import warn_of_lost_options
from .ops.kernels import NO_STATISTICS, Running

Initializer = str | float | Callable[[Tensor], Any]

# The names and numbers of mxnet.initializer that make sense for vectors.
_NAMED: dict[str, Callable[[Tensor], Any]] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "uniform": partial(nn.init.uniform_, a=-0.07, b=0.07),
    "normal": partial(nn.init.normal_, std=0.01),
}


class AssertedArgumentError(InvalidArgumentError, AssertionError):
    """An InvalidArgumentError where the other system raises an AssertionError."""


class LoadsArrays(nn.Module):
    """A layer that loads state dicts of NumPy arrays as well as of tensors."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        names = {prefix + name for name in (*self._parameters, *self._buffers)}
        own = {key: self._loaded(tensor_of(state_dict[key])) for key in names & state_dict.keys()}
        super()._load_from_state_dict({**state_dict, **own}, prefix, *args)

    def _loaded(self, value: Tensor) -> Tensor:
        """Return the value of a state dict as a parameter or buffer takes it."""
        return value


class DialectLayer(LoadsArrays, HasProcessGroup, _BatchNorm):
    """A layer with other names than torch's; the arguments are as in SyncBatchNorm.

    A _BatchNorm, so that update_bn, SWA and code that freezes batch normalizations find it. They
    use momentum (None: the cumulative average), track_running_stats, reset_running_stats,
    running_mean, running_var and num_batches_tracked, which is not in the state dict.
    """

    track_running_stats = True

    def __init__(
        self,
        process_group: Any,
        group_size: int | None,
        name: str | None,
        timeout: float | None,
        device: Any,
    ) -> None:
        nn.Module.__init__(self)  # not that of _BatchNorm, which has other names and shapes
        check_timeout(timeout)
        self._set_group(process_group, name, group_size)
        self.timeout = timeout
        warn_of_lost_options()
        self._register_counter(device)

    def _register_counter(self, device: Any) -> None:
        self.num_batches_tracked: Tensor
        count = torch.zeros((), dtype=torch.int64, device=device)
        self.register_buffer("num_batches_tracked", count, persistent=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "num_batches_tracked" not in self._buffers:  # pickled by a version without a counter
            mean = self.running_mean
            self._register_counter(None if mean is None else mean.device)

    def _chosen(self) -> list[str]:
        return [f"conventions, those of {type(self).__module__.rpartition('.')[2]}"]

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and num_batches_tracked to 0."""
        if self.running_mean is not None and self.running_var is not None:
            nn.init.zeros_(self.running_mean)
            nn.init.ones_(self.running_var)
        nn.init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Set weight to 1, bias to 0 and reset the running statistics."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _running(self) -> Running:
        """Return the running statistics to use or update; none in training without tracking."""
        if self.training and not self.track_running_stats:
            return NO_STATISTICS
        return Running(self.running_mean, self.running_var, self.num_batches_tracked)

    def _batch_norm(
        self, settings: Settings, input: Tensor | Sequence[Tensor], training: bool, **call: Any
    ) -> Any:
        """Normalize a tensor or a list over this layer's group; call: other fields of Call."""
        layer = {"group": self.current_group(), "name": self.layer_name, "timeout": self.timeout}
        if not is_dynamo_compiling():
            layer["number"] = self._number
        normalize: Any = batch_norm if isinstance(input, Tensor) else batch_norm_list
        return normalize(input, Call(settings, training, **layer, **call))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # To a state dict of a version before 2 torch's class would add num_batches_tracked.
        local_metadata = {**local_metadata, "version": 2}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def batch_momentum(momentum: float | None) -> float | None:
    """Return the weight of the batch from that of the running statistics; None for None."""
    return None if momentum is None else 1 - momentum


def tensor_of(value: Any) -> Tensor:
    """Return a tensor, or a copy of an array as one; also of bfloat16, which NumPy lacks."""
    if isinstance(value, Tensor):
        return value
    dtype = getattr(value, "dtype", None)
    if dtype is not None and dtype.name in ("bfloat16", "void16"):  # of ml_dtypes; from a file
        return torch.tensor(value.view("int16")).view(torch.bfloat16)
    if hasattr(value, "astype"):  # torch takes neither another byte order nor negative strides
        value = value.astype(value.dtype.newbyteorder("="), order="C")
    return torch.tensor(value)


def filler(initializer: Initializer, argument: str) -> Callable[[Tensor], Any]:
    """Return a function that fills a tensor in place; argument: its name for the error."""
    if callable(initializer):
        return initializer
    if isinstance(initializer, str) and initializer in _NAMED:
        return _NAMED[initializer]
    if isinstance(initializer, int | float):
        return partial(nn.init.constant_, val=initializer)
    raise InvalidArgumentError(
        f"{argument}: got {initializer!r}, expected one of {', '.join(_NAMED)}, a number, or a"
        " function that fills a tensor in place, such as torch.nn.init.ones_"
    )
