"""SyncBatchNorm, the layer."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .entry import batch_norm
from .options import CHOICES, Choices, Settings, core_options
from .resolve import ALONE

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SyncBatchNorm(_BatchNorm):
    """Batch normalization with statistics over all ranks of a group, for inputs (N, C, ...).

    In training the ranks exchange one small vector in forward and one in backward, and the result
    is that of one big batch, however it was divided. In evaluation the running statistics are used
    and no rank talks to another. The state dict is that of torch's own batch normalization.

    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as in
    torch.nn.BatchNorm2d.
    process_group: a torch.distributed ProcessGroup, a syncbn.Communicator, or None: the default
    group of torch.distributed, or a world of one where that is not initialized.
    weighting: "count" (every value counts alike), "equal" (every rank) or "batch" (every sample).
    eps_mode: "add", 1/sqrt(var + eps), or "max", 1/sqrt(max(var, eps)).
    variance_factor: on the variance that enters running_var: "unbiased", "biased",
    "unbiased_local" or "unbiased_rank".
    grad_reduction: what the gradients of weight and bias report: "local" to this rank (for
    DistributedDataParallel), the "sum" over the group or its "mean".
    centering: "auto", "on" or "off": a second exchange that makes the variance as accurate as if
    the mean were zero; auto is on for float64 input.
    activation: "identity", "relu" or "leaky_relu" with negative_slope, applied to the output.
    """

    # Class attributes, so that modules pickled before an option existed still load.
    weighting: str = "count"
    eps_mode: str = "add"
    variance_factor: str = "unbiased"
    grad_reduction: str = "local"
    centering: str = "auto"
    activation: str = "identity"
    negative_slope: float = 0.01

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
        weighting: str = "count",
        eps_mode: str = "add",
        variance_factor: str = "unbiased",
        grad_reduction: str = "local",
        centering: str = "auto",
        activation: str = "identity",
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.process_group = process_group
        self.weighting = weighting
        self.eps_mode = eps_mode
        self.variance_factor = variance_factor
        self.grad_reduction = grad_reduction
        self.centering = centering
        self.activation = activation
        self.negative_slope = negative_slope
        core_options(self._settings())  # refuses what the core does not know

    def _settings(self) -> Settings:
        return Settings(
            self.eps,
            self.momentum,
            self.weighting,
            self.eps_mode,
            self.variance_factor,
            self.grad_reduction,
            self.centering,
            self.activation,
            self.negative_slope,
        )

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"expected {self.num_features} channels in dimension 1 (got {input.shape[1]}"
                f" in an input of shape {tuple(input.shape)})"
            )

    def forward(
        self, input: Tensor, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """activation(batch_norm(input) + residual).

        mask, of shape (N, *spatial) or (N, 1, *spatial): where it is 0 the position is normalized
        but does not count in the statistics of the batch.
        """
        self._check_input_dim(input)
        uses_batch = self.training or self.running_mean is None or self.running_var is None
        # As in torch, ranks talk in training only: without running statistics an evaluation uses
        # the statistics of this rank's batch.
        tracked = not uses_batch or (self.training and self.track_running_stats)
        return batch_norm(
            self._settings(),
            input,
            training=uses_batch,
            running_mean=self.running_mean if tracked else None,
            running_var=self.running_var if tracked else None,
            num_batches_tracked=self.num_batches_tracked if tracked else None,
            weight=self.weight,
            bias=self.bias,
            residual=residual,
            mask=mask,
            process_group=self.process_group if self.training else ALONE,
        )

    def extra_repr(self) -> str:
        chosen = [
            f"{name}={getattr(self, name)!r}"
            for name, default in CHOICES.items()
            if getattr(self, name) != default
        ]
        return ", ".join([super().extra_repr(), *chosen])  # type: ignore[no-untyped-call]

    @classmethod
    def convert_sync_batchnorm(
        cls, module: nn.Module, process_group: Any = None, **choices: Unpack[Choices]
    ) -> nn.Module:
        """syncbn.torch.convert_sync_batchnorm, making layers of this class."""
        from .convert import convert_sync_batchnorm

        return convert_sync_batchnorm(module, process_group, layer=cls, **choices)

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm:
        """A copy that talks in the same group: a group cannot be copied, and need not be."""
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        memo[id(self.process_group)] = self.process_group
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle, without the group, which lives in this process only."""
        state = self.__dict__.copy()
        state["process_group"] = None
        if not _is_default(self.process_group):
            warnings.warn(
                "a SyncBatchNorm was pickled without its process_group; the loaded layer will use"
                " the default group until its process_group is set",
                stacklevel=2,
            )
        return state


def _is_default(process_group: Any) -> bool:
    if process_group is None:
        return True
    return dist.is_available() and dist.is_initialized() and process_group is dist.group.WORLD
