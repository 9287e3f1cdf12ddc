"""megengine.module.SyncBatchNorm and megengine.functional.nn.sync_batch_norm."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from syncnorm import InvalidArgumentError
from syncnorm.settings import Settings

from .call import Affine, Call
from .dialects import AssertedArgumentError, DialectLayer, batch_momentum
from .dispatch import batch_norm
from .ops.kernels import Running
from .ops.layout import check_channels, check_input, check_tensor
from .tracing import call_module, is_proxy

__all__ = ["WORLD", "SyncBatchNorm", "sync_batch_norm"]

# As a group: all ranks.
WORLD: Final = None

_EPS_MODES = {"additive": "add", "max": "max"}


class SyncBatchNorm(DialectLayer):
    """megengine.module.SyncBatchNorm, with its arguments, defaults, conventions and state dict.

    The input is (N, C), (N, C, L) or (N, C, H, W). weight, bias, running_mean and running_var are
    (1, C, 1, 1); state dicts with (C,), as of older versions, are loaded too. Where megengine is
    wrong, a frozen layer keeps the shape of (N, C) and (N, C, L), and the variance is accurate.

    Args:
        momentum: running = momentum*running + (1 - momentum)*batch, with the unbiased variance.
        track_running_stats: False: an evaluation uses the statistics of the batch over the group,
            so that every rank takes part in it. May be set at any time.
        freeze: Use the running statistics in training too and do not update them; weight and bias
            get no gradient.
        group: A process group, a list of global ranks, or another process_group of
            syncnorm.torch.SyncBatchNorm; WORLD: all ranks.
        group_size, name, timeout, device, dtype: As in syncnorm.torch.SyncBatchNorm.

    Raises:
        InvalidArgumentError: freeze without running statistics. It is an AssertionError, too.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.9,
        affine: bool = True,
        track_running_stats: bool = True,
        freeze: bool = False,
        group: Any = WORLD,
        *,
        name: str | None = None,
        group_size: int | None = None,
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(group, group_size, name, timeout, device)
        if freeze and not track_running_stats:
            text = "track_running_stats must be initialized to True if freeze is True"
            raise AssertedArgumentError(text)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.freeze = freeze

        def vector() -> Tensor:
            return torch.empty((1, num_features, 1, 1), device=device, dtype=dtype)

        self.register_parameter("weight", nn.Parameter(vector()) if affine else None)
        self.register_parameter("bias", nn.Parameter(vector()) if affine else None)
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.register_buffer("running_mean", vector() if track_running_stats else None)
        self.register_buffer("running_var", vector() if track_running_stats else None)
        self.reset_parameters()

    @property
    def group(self) -> Any:
        """The process group, or WORLD; a list of ranks until the first call."""
        return self.process_group

    @group.setter
    def group(self, group: Any) -> None:
        self.process_group = group

    def forward(self, inp: Tensor) -> Tensor:
        if is_proxy(inp):
            recorded: Tensor = call_module(self, SyncBatchNorm, inp)
            return recorded
        check_tensor(inp)
        if inp.dim() not in (2, 3, 4):
            raise InvalidArgumentError(f"expected 2D, 3D or 4D input (got {inp.dim()}D input)")
        check_channels(inp, self.num_features)
        affine = Affine(_flat(self.weight, self.freeze), _flat(self.bias, self.freeze))
        tracked = self.running_mean is not None and self.track_running_stats
        uses_batch = not tracked or (self.training and not self.freeze)
        running = Running()
        if tracked:
            mean, var, count = self._running()
            running = Running(_flat(mean), _flat(var), count)
        settings = _settings(self.momentum, self.eps, "additive")
        y: Tensor = self._batch_norm(settings, inp, uses_batch, affine=affine, running=running)
        return y

    def _loaded(self, value: Tensor) -> Tensor:
        return value.reshape(1, -1, 1, 1) if value.dim() == 1 else value

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine},"
            f" track_running_stats={self.track_running_stats}, freeze={self.freeze}"
        )


def sync_batch_norm(
    inp: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.9,
    eps: float = 1e-5,
    eps_mode: str = "additive",
    group: Any = WORLD,
) -> Tensor:
    """Compute megengine.functional.nn.sync_batch_norm.

    Args:
        inp: (N, C, ...).
        running_mean, running_var, weight, bias: C values, of shape (1, C, 1, 1) or (C,).
        training: Use the statistics of the batch over the group and update the running statistics,
            if given, in place: momentum*running + (1 - momentum)*batch, with the unbiased variance.
            Otherwise the running statistics are used.
        eps_mode: "additive", 1/sqrt(var + eps), or "max", 1/sqrt(max(var, eps)).
        group: As in SyncBatchNorm.

    Raises:
        InvalidArgumentError: Another eps_mode. It is an AssertionError, too.
    """
    check_input(inp)
    affine = Affine(_flat(weight), _flat(bias))
    running = Running(_flat(running_mean), _flat(running_var))
    settings = _settings(momentum, eps, eps_mode)
    return batch_norm(inp, Call(settings, training, affine, running, group=group))


def _settings(momentum: float | None, eps: float, eps_mode: str) -> Settings:
    if eps_mode.lower() not in _EPS_MODES:
        raise AssertedArgumentError(f"unknown eps_mode: {eps_mode}, expected 'additive' or 'max'")
    return Settings(eps, batch_momentum(momentum), eps_mode=_EPS_MODES[eps_mode.lower()])


def _flat(vector: Tensor | None, constant: bool = False) -> Tensor | None:
    """Return a view (C,) of a vector (1, C, 1, 1), without a gradient if it is `constant`."""
    if vector is None:
        return None
    return (vector.detach() if constant else vector).view(-1)
