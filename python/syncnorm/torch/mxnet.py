"""mxnet.gluon.contrib.nn.SyncBatchNorm, over the core."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter, is_lazy

from .dialects.initializers import Initializer, fill, filler
from .dialects.layer import DialectLayer
from .dialects.states import tensor_of
from .options import Settings
from .resolve import resolve
from .tensors import check_channels

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(DialectLayer):
    """mxnet.gluon.contrib.nn.SyncBatchNorm: its arguments, defaults, conventions and state dict.

    Input has two dimensions or more, the channels in the second.

    in_channels: 0: taken from the first input, or from the first state dict. Until then the
    parameters have no shape.
    num_devices: how many ranks take part, each a device with a thread or process of its own
    (syncnorm.torch.thread_replicas makes them of a network), or a tensor in a list, which is one
    batch on several devices and gives a list. None: as many as there are.
    momentum: running = momentum*running + (1 - momentum)*batch, with the biased variance. Every
    device counts alike.
    center, scale: False: beta, or gamma, gets no gradient; beta is still added, gamma stays 1,
    whatever a state dict has for it.
    use_global_stats: the running statistics are used in training too, and not updated; gamma and
    beta get their gradients all the same.
    beta_initializer, gamma_initializer, running_mean_initializer, running_variance_initializer:
    "zeros", "ones", "uniform", "normal", a number, or a function that fills a tensor in place.
    process_group: the ranks, as in syncnorm.torch.SyncBatchNorm, and so are name, timeout, device
    and dtype; mxnet does not have them.

    The running statistics move in the backward pass, as in mxnet: a forward pass without one leaves
    them alone.

    Differences, where mxnet is wrong or hangs: the default of num_devices is not the number of
    devices that are visible, but those that take part; another number is an error; devices are told
    apart by their ranks and not by the order of their arrival or a layer's name; 16-bit input
    works; the variance does not come from the difference of two sums in float32.

    Raises ValueError for an initializer that there is not, and in a call for another number of
    channels or devices.
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
        process_group: Any = None,
        name: str | None = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(process_group, name, timeout)
        self.in_channels = in_channels
        self.num_devices = num_devices
        self.momentum = momentum
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.use_global_stats = use_global_stats
        self.initializers: dict[str, Initializer] = {
            "gamma": gamma_initializer if scale else "ones",
            "beta": beta_initializer,
            "running_mean": running_mean_initializer,
            "running_variance": running_variance_initializer,
        }
        for tensor, initializer in self.initializers.items():
            filler(initializer, f"{tensor}_initializer")  # refuses what it does not know
        where = {"device": device, "dtype": dtype}
        self.gamma = UninitializedParameter(requires_grad=scale, **where)
        self.beta = UninitializedParameter(requires_grad=center, **where)
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", None)
        self.register_buffer("running_var", None)
        if in_channels:
            self._materialize(in_channels)

    def reset_parameters(self) -> None:
        """Parameters and running statistics as the initializers have them."""
        tensors = (self.gamma, self.beta, self.running_mean, self.running_var)
        for tensor, (name, initializer) in zip(tensors, self.initializers.items(), strict=True):
            fill(tensor, initializer, f"{name}_initializer")

    def forward(self, data: Tensor | Sequence[Tensor]) -> Any:
        tensors = [data] if isinstance(data, Tensor) else data
        if not tensors:
            raise ValueError("data: got no tensor, expected at least one")
        for x in tensors:
            self._check(x)
        normalize = partial(
            self._batch_norm,
            # With 1 as momentum the statistics of the batch come as they are.
            Settings(self.epsilon, 1.0, weighting="equal", variance_factor="biased"),
            data,
            weight=self.gamma if self.scale else None,
            bias=self.beta,
        )
        if not self.training or self.use_global_stats:
            running = {"running_mean": self.running_mean, "running_var": self.running_var}
            return normalize(training=False, **running)
        self._check_devices(data)
        batch = _Batch(self.running_mean)
        y: Any = normalize(
            training=True,
            running_mean=batch.mean,
            running_var=batch.var,
            num_batches_tracked=batch.count,
            repeats_update=True,  # what repeats a forward pass is followed by its backward pass
        )
        node = (y if isinstance(y, Tensor) else y[0]).grad_fn  # one node made all of a list
        if node is not None:
            node.register_prehook(partial(self._move, batch))
        return y

    def _move(self, batch: _Batch, _: Any) -> None:
        """The step of the running statistics, at the beginning of a backward pass."""
        step = (1 - self.momentum) * batch.count.double()  # 0 where all devices were empty
        with torch.no_grad():
            self.running_mean.copy_(self.running_mean.double().lerp(batch.mean.double(), step))
            self.running_var.copy_(self.running_var.double().lerp(batch.var.double(), step))

    def _check(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {x.dim()}D input)")
        if self._is_deferred():
            self._materialize(x.shape[1])
        check_channels(x, self.in_channels)

    def _check_devices(self, data: Tensor | Sequence[Tensor]) -> None:
        if self.num_devices is None:
            return
        if isinstance(data, Tensor):
            group = resolve(self.current_group())
            got, what = (1 if group is None else group.size), "rank(s) in the group of the layer"
        else:
            got, what = len(data), "tensor(s) in the list"
        if got != self.num_devices:
            raise ValueError(
                f"num_devices: got {self.num_devices}, but {got} {what}; expected as many, or None."
                " Devices of one process are a list of tensors, or threads: see"
                " syncnorm.torch.thread_replicas"
            )

    def _is_deferred(self) -> bool:
        return bool(is_lazy(self.gamma))

    def _materialize(self, channels: int) -> None:
        self.in_channels = channels
        parameter: Any
        for parameter in (self.gamma, self.beta):
            parameter.materialize((channels,))
        self.running_mean = torch.empty_like(self.gamma, requires_grad=False)
        self.running_var = torch.empty_like(self.gamma, requires_grad=False)
        self.reset_parameters()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        gamma = state_dict.get(f"{prefix}gamma")
        if self._is_deferred() and gamma is not None and not is_lazy(gamma):
            self._materialize(len(gamma))
        if not self.scale and gamma is not None and not is_lazy(gamma):
            state_dict = {**state_dict, f"{prefix}gamma": torch.ones_like(tensor_of(gamma))}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self._is_deferred():  # as torch's lazy modules do, and torch.save can write it
            destination.update({f"{prefix}gamma": self.gamma, f"{prefix}beta": self.beta})
        else:
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def extra_repr(self) -> str:
        return (
            f"eps={self.epsilon}, momentum={self.momentum}, fix_gamma={not self.scale},"
            f" use_global_stats={self.use_global_stats}, ndev={self.num_devices},"
            f" in_channels={self.in_channels or None}"
        )


class _Batch:
    """Where the statistics of one batch come to, like running statistics; count becomes 1."""

    def __init__(self, like: Tensor) -> None:
        self.mean = torch.zeros_like(like)
        self.var = torch.zeros_like(like)
        self.count = torch.zeros((), dtype=torch.int64, device=like.device)
