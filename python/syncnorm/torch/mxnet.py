"""mxnet.gluon.contrib.nn.SyncBatchNorm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter, is_lazy

from syncnorm import InvalidArgumentError
from syncnorm.settings import Settings

from .call import Affine
from .dialects import DialectLayer, Initializer, filler, tensor_of
from .groups.resolve import resolve
from .ops.kernels import Running
from .ops.layout import check_channels, check_input
from .tracing import call_module, is_proxy

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(DialectLayer):
    """mxnet.gluon.contrib.nn.SyncBatchNorm, with its arguments, defaults, conventions, state dict.

    The input is (N, C, ...). As in mxnet, the running statistics are updated in the backward pass,
    not in forward, and every device counts equally.

    Differences where mxnet is wrong or hangs: num_devices defaults to the devices that take part,
    and another number is an error; devices are identified by rank, not by the order of their
    arrival or a layer's name; 16-bit input works; the variance is accurate.

    Args:
        in_channels: 0: taken from the first input or state dict.
        num_devices: Number of ranks (processes, or threads as of syncnorm.torch.thread_replicas),
            or of tensors in a list, which is one batch and gives a list. None: any number.
        momentum: running = momentum*running + (1 - momentum)*batch, with the biased variance.
        center: False: beta gets no gradient; it is still added.
        scale: False: gamma stays 1 without a gradient, whatever a state dict contains.
        use_global_stats: Use the running statistics in training too, and do not update them.
        beta_initializer, gamma_initializer, running_mean_initializer, running_variance_initializer:
            "zeros", "ones", "uniform", "normal", a number, or a function that fills a tensor.
        output_mean_var: Return (y, mean, var), as the operator of this argument: of the batch, or
            the running statistics where they are used; without a gradient. var is biased.
        process_group, group_size, name, timeout, device, dtype: As in syncnorm.torch.SyncBatchNorm.

    Raises:
        InvalidArgumentError: Unknown initializer; in a call, other numbers of channels or devices.
    """

    def __init__(
        self,
        in_channels: int = 0,
        num_devices: int | None = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        use_global_stats: bool = False,
        beta_initializer: Initializer = "zeros",
        gamma_initializer: Initializer = "ones",
        running_mean_initializer: Initializer = "zeros",
        running_variance_initializer: Initializer = "ones",
        *,
        output_mean_var: bool = False,
        process_group: Any = None,
        name: str | None = None,
        group_size: int | None = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(process_group, group_size, name, timeout, device)
        self.in_channels = in_channels
        self.num_devices = num_devices
        self.momentum = momentum
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.use_global_stats = use_global_stats
        self.output_mean_var = output_mean_var
        self.initializers: dict[str, Initializer] = {
            "gamma": gamma_initializer if scale else "ones",
            "beta": beta_initializer,
            "running_mean": running_mean_initializer,
            "running_variance": running_variance_initializer,
        }
        self._fillers()  # raises for an unknown one
        where = {"device": device, "dtype": dtype}
        self.gamma: Any = UninitializedParameter(requires_grad=scale, **where)
        self.beta: Any = UninitializedParameter(requires_grad=center, **where)
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", None)
        self.register_buffer("running_var", None)
        if in_channels:
            self._materialize(in_channels)

    def _fillers(self) -> list[Callable[[Tensor], Any]]:
        return [filler(each, f"{name}_initializer") for name, each in self.initializers.items()]

    def reset_parameters(self) -> None:
        """Initialize the parameters and the running statistics."""
        tensors = (self.gamma, self.beta, self.running_mean, self.running_var)
        with torch.no_grad():
            for tensor, fill in zip(tensors, self._fillers(), strict=True):
                fill(tensor)

    def forward(self, data: Tensor | Sequence[Tensor]) -> Any:
        if is_proxy(data):
            return call_module(self, SyncBatchNorm, data)
        tensors: Sequence[Any] = data if isinstance(data, (list, tuple)) else [data]
        if not tensors:
            raise InvalidArgumentError("data: got no tensor, expected at least one")
        for x in tensors:
            if is_lazy(self.gamma):
                check_input(x)
                self._materialize(x.shape[1])
            check_channels(x, self.in_channels)
        normalize = partial(
            self._batch_norm,
            # A momentum of 1 returns the statistics of the batch.
            Settings(self.epsilon, 1.0, weighting="equal", variance_factor="biased"),
            data,
            affine=Affine(self.gamma if self.scale else None, self.beta),
        )
        if not self.training or self.use_global_stats:
            mean, var = self.running_mean, self.running_var
            y = normalize(training=False, running=Running(mean, var))
            return (y, mean, var) if self.output_mean_var else y
        self._check_devices(data)
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_mean)
        count = torch.zeros_like(self.num_batches_tracked)
        # A repeated forward pass is followed by its backward pass.
        y = normalize(training=True, running=Running(mean, var, count), update_in_backward=True)
        node = (y if isinstance(y, Tensor) else y[0]).grad_fn  # a list has one node
        if not self.track_running_stats:
            pass
        elif self.momentum is None:  # of update_bn, which runs no backward pass
            self._update_running(mean, var, count)
        elif node is not None:
            node.register_prehook(partial(self._update_running, mean, var, count))
        return (y, mean, var) if self.output_mean_var else y

    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor, *_: Any) -> None:
        """Update the running statistics at the beginning of a backward pass."""
        self.num_batches_tracked += count
        seen = self.num_batches_tracked.double().clamp(min=1)
        rate = 1 / seen if self.momentum is None else 1 - self.momentum
        step = rate * count.double()  # 0 if all devices were empty
        with torch.no_grad():
            self.running_mean.copy_(self.running_mean.double().lerp(mean.double(), step))
            self.running_var.copy_(self.running_var.double().lerp(var.double(), step))

    # The names of torch's _BatchNorm, for code that freezes parameters.

    @property
    def weight(self) -> Any:  # type: ignore[override]
        return self.gamma

    @property
    def bias(self) -> Any:  # type: ignore[override]
        return self.beta

    def _check_devices(self, data: Tensor | Sequence[Tensor]) -> None:
        if self.num_devices is None:
            return
        if isinstance(data, Tensor):
            got, what = resolve(self.current_group()).size, "rank(s) in the group of the layer"
        else:
            got, what = len(data), "tensor(s) in the list"
        if got != self.num_devices:
            raise InvalidArgumentError(
                f"num_devices: got {self.num_devices}, but {got} {what}; expected the same number,"
                " or None. In one process pass a list of tensors or use thread_replicas"
            )

    def _materialize(self, channels: int) -> None:
        self.in_channels = channels
        self.gamma.materialize((channels,))
        self.beta.materialize((channels,))
        self.running_mean = torch.empty_like(self.gamma, requires_grad=False)
        self.running_var = torch.empty_like(self.gamma, requires_grad=False)
        self.reset_parameters()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        gamma = state_dict.get(f"{prefix}gamma")
        if gamma is not None and not is_lazy(gamma):
            if is_lazy(self.gamma):
                self._materialize(len(gamma))
            if not self.scale:
                state_dict = {**state_dict, f"{prefix}gamma": torch.ones_like(tensor_of(gamma))}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if is_lazy(self.gamma):  # as in torch's lazy modules, so that torch.save works
            destination.update({f"{prefix}gamma": self.gamma, f"{prefix}beta": self.beta})
        else:
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def extra_repr(self) -> str:
        return (
            f"eps={self.epsilon}, momentum={self.momentum}, fix_gamma={not self.scale},"
            f" use_global_stats={self.use_global_stats}, ndev={self.num_devices},"
            f" in_channels={self.in_channels or None}"
        )
