"""megengine.module.SyncBatchNorm and megengine.functional's sync_batch_norm, over the core."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from .dialects.layer import DialectLayer
from .dialects.refusals import RefusedArgument
from .entry import batch_norm
from .options import Settings
from .tensors import check_channels

__all__ = ["WORLD", "SyncBatchNorm", "sync_batch_norm"]

# As a group: all ranks.
WORLD: Final = None

_EPS_MODES = {"additive": "add", "max": "max"}


class SyncBatchNorm(DialectLayer):
    """megengine.module.SyncBatchNorm: its arguments, defaults, conventions and state dict.

    Input is (N, C), (N, C, L) or (N, C, H, W). weight, bias, running_mean and running_var have the
    shape (1, C, 1, 1); state dicts with (C,), as older versions have for weight and bias, are
    loaded too.

    momentum: running = momentum*running + (1 - momentum)*batch; running_var gets the unbiased
    variance of the batch. track_running_stats=False: no running statistics, and an evaluation uses
    those of the batch over the group as well, so that every rank takes part in it.
    freeze: the running statistics are used, and not updated, in training too; weight and bias get
    no gradient.
    group: a process group or a list of global ranks; WORLD: all ranks. All that SyncBatchNorm of
    syncnorm.torch takes as process_group is possible too.
    name, timeout, device, dtype: as in syncnorm.torch.SyncBatchNorm; megengine does not have them.

    Differences, where megengine is wrong: a frozen layer keeps the shape of (N, C) and (N, C, L);
    the variance does not come from the difference of two sums in float32.

    Raises ValueError, which is an AssertionError too, for freeze without running statistics.
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
        timeout: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(group, name, timeout)
        if freeze and not track_running_stats:
            raise RefusedArgument(
                "track_running_stats must be initialized to True if freeze is True"
            )
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.freeze = freeze

        def vector() -> Tensor:
            return torch.empty((1, num_features, 1, 1), device=device, dtype=dtype)

        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        self.register_parameter("weight", nn.Parameter(vector()) if affine else None)
        self.register_parameter("bias", nn.Parameter(vector()) if affine else None)
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.register_buffer("running_mean", vector() if track_running_stats else None)
        self.register_buffer("running_var", vector() if track_running_stats else None)
        self.reset_parameters()

    @property
    def group(self) -> Any:
        """The process group, or WORLD; a list of ranks until they talk."""
        return self.process_group

    @group.setter
    def group(self, group: Any) -> None:
        self.process_group = group

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1."""
        if self.running_mean is not None and self.running_var is not None:
            nn.init.zeros_(self.running_mean)
            nn.init.ones_(self.running_var)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and reset_running_stats()."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, inp: Tensor) -> Tensor:
        if inp.dim() not in (2, 3, 4):
            raise ValueError(f"expected 2D, 3D or 4D input (got {inp.dim()}D input)")
        check_channels(inp, self.num_features)
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        if self.freeze:
            weight = None if weight is None else weight.detach()
            bias = None if bias is None else bias.detach()
        uses_batch = self.running_mean is None or (self.training and not self.freeze)
        y: Tensor = self._batch_norm(
            _settings(self.momentum, self.eps, "additive"),
            inp,
            training=uses_batch,
            **_flat(
                running_mean=self.running_mean,
                running_var=self.running_var,
                weight=weight,
                bias=bias,
            ),
        )
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
    """megengine.functional.nn.sync_batch_norm.

    inp: (N, C, ...). running_mean, running_var, weight, bias: C values, of shape (1, C, 1, 1) or
    (C,). In training the statistics of the batch over the group are used, and the running
    statistics, if given, are updated in place: momentum*running + (1 - momentum)*batch, with the
    unbiased variance. Else the running statistics are used.
    eps_mode: "additive", 1/sqrt(var + eps), or "max", 1/sqrt(max(var, eps)).
    group: as in SyncBatchNorm.

    Raises ValueError, which is an AssertionError too, for another eps_mode.
    """
    vectors = _flat(running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    settings = _settings(momentum, eps, eps_mode)
    return batch_norm(settings, inp, training=training, process_group=group, **vectors)


def _settings(momentum: float, eps: float, eps_mode: str) -> Settings:
    if eps_mode.lower() not in _EPS_MODES:
        raise RefusedArgument(f"unknown eps_mode: {eps_mode}, expected 'additive' or 'max'")
    return Settings(eps, 1 - momentum, eps_mode=_EPS_MODES[eps_mode.lower()])


def _flat(**vectors: Tensor | None) -> dict[str, Any]:
    """Vectors of shape (1, C, 1, 1) as entry.batch_norm takes them, over the same memory."""
    return {name: None if vector is None else vector.view(-1) for name, vector in vectors.items()}
