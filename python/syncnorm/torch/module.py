"""SyncBatchNorm, the layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .entry import batch_norm
from .group import check_timeout
from .kept_groups import KeepsGroup
from .lists import batch_norm_list
from .options import CHOICES, LayerChoices, Settings, core_options
from .resolve import ALONE
from .tensors import check_channels

if TYPE_CHECKING:
    from typing_extensions import Unpack

# What SyncBatchNorm adds to the attributes of torch's batch normalization.
OWN_ATTRIBUTES = (*CHOICES, "freeze", "timeout", "layer_name", "process_group")


class SyncBatchNorm(KeepsGroup, _BatchNorm):
    """Batch normalization with statistics over all ranks of a group, for inputs (N, C, ...).

    In training the ranks exchange one small vector in forward and one in backward, and the result
    is that of one big batch, however it was divided. In evaluation the running statistics are used
    and no rank talks to another. The state dict is that of torch's own batch normalization.

    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as in
    torch.nn.BatchNorm2d.
    process_group: a torch.distributed ProcessGroup, a DeviceMesh of one dimension, such as
    mesh["dp"], a list of global ranks, a syncnorm.Communicator, or None: the default group of
    torch.distributed, or a world of one where that is not initialized.
    weighting: "count" (every value counts alike), "equal" (every rank) or "batch" (every sample).
    eps_mode: "add", 1/sqrt(var + eps), or "max", 1/sqrt(max(var, eps)).
    variance_factor: on the variance that enters running_var: "unbiased", "biased",
    "unbiased_local" or "unbiased_rank".
    grad_reduction: what the gradients of weight and bias report: "local" to this rank (for
    DistributedDataParallel), the "sum" over the group or its "mean".
    centering: "auto", "on" or "off": a second exchange that makes the variance as accurate as if
    the mean were zero; auto is on for float64 input.
    activation: "identity", "relu", "elu" or "leaky_relu" with negative_slope, on the output.
    in_place: the output overwrites the input, and backward computes from it what it needs; not with
    "relu", nor with a residual. docs/pytorch.md says what that costs in accuracy.
    freeze: the running statistics are used, and not updated, in training too; weight and bias get
    no gradient; no rank talks to another. May be set at any time, alike on all ranks. (To stop only
    the gradients of weight and bias, use their requires_grad.)
    name: of this layer in messages about ranks that disagree; kept as layer_name.
    timeout: how many seconds a sum over a torch.distributed group may take; None: as many as the
    group itself allows.

    Raises ValueError for what is not allowed; InvalidArgumentError, a ValueError, for options.
    """

    # Class attributes, so that modules pickled before an option existed still load.
    weighting: str = "count"
    eps_mode: str = "add"
    variance_factor: str = "unbiased"
    grad_reduction: str = "local"
    centering: str = "auto"
    activation: str = "identity"
    negative_slope: float = 0.01
    in_place: bool = False
    freeze: bool = False
    layer_name: str | None = None
    timeout: float | None = None

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
        in_place: bool = False,
        freeze: bool = False,
        name: str | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:  # the base class of torch 2.10 has no such argument
            self.register_parameter("bias", None)
        self.process_group = process_group
        self.weighting = weighting
        self.eps_mode = eps_mode
        self.variance_factor = variance_factor
        self.grad_reduction = grad_reduction
        self.centering = centering
        self.activation = activation
        self.negative_slope = negative_slope
        self.in_place = in_place
        self.freeze = freeze
        self.layer_name = name
        self.timeout = timeout
        core_options(self._settings())  # refuses what the core does not know
        if freeze and not track_running_stats:
            raise ValueError("freeze: got True, which needs track_running_stats=True")
        check_timeout(timeout)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and reset_running_stats()."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

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
            self.in_place,
        )

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        check_channels(input, self.num_features)

    def forward(
        self,
        input: Tensor | Sequence[Tensor],
        residual: Tensor | Sequence[Tensor | None] | None = None,
        mask: Tensor | Sequence[Tensor | None] | None = None,
    ) -> Any:
        """activation(batch_norm(input) + residual), of the shape and dtype of input.

        mask, of shape (N, *spatial) or (N, 1, *spatial): where it is 0 the position is normalized
        but does not count in the statistics of the batch.

        A list of inputs, which may be on different devices, is one batch and gives a list; residual
        and mask are then lists too. That is for one process that holds the whole batch: in training
        with a group of more than one rank it is refused with a ValueError.
        """
        normalize: Callable[..., Any] = batch_norm
        if isinstance(input, list | tuple):
            normalize = batch_norm_list
            for each in input:
                self._check_input_dim(each)
        else:
            self._check_input_dim(input)  # type: ignore[arg-type]  # no list, hence a tensor
        # Parameters and buffers are looked up once each: nn.Module takes its time for them.
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        running_mean, running_var = self.running_mean, self.running_var
        uses_batch = self.training or running_mean is None or running_var is None
        if self.freeze:
            weight, bias = self._frozen(weight, bias, running_mean, running_var)
            uses_batch = False
        tracked = not uses_batch or (self.training and self.track_running_stats)
        return normalize(
            self._settings(),
            input,
            training=uses_batch,
            running_mean=running_mean if tracked else None,
            running_var=running_var if tracked else None,
            num_batches_tracked=self.num_batches_tracked if tracked else None,
            weight=weight,
            bias=bias,
            residual=residual,
            mask=mask,
            process_group=self.current_group() if self._joins() else ALONE,
            name=self.layer_name,
            timeout=self.timeout,
        )

    def _joins(self) -> bool:
        """Whether the other ranks of the group take part in a call.

        As in torch in training only: without running statistics an evaluation uses the statistics
        of this rank's batch.
        """
        return self.training

    def _frozen(
        self,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """weight and bias for a layer with freeze=True: without gradients."""
        if running_mean is None or running_var is None:
            raise ValueError(
                "freeze: the layer has no running statistics to use; expected freeze=False, or a"
                " layer made with track_running_stats=True"
            )
        return (
            None if weight is None else weight.detach(),
            None if bias is None else bias.detach(),
        )

    def extra_repr(self) -> str:
        defaults = {**CHOICES, "freeze": False, "timeout": None}
        chosen = [
            f"{name}={getattr(self, name)!r}"
            for name, default in defaults.items()
            if getattr(self, name) != default
        ]
        return ", ".join([super().extra_repr(), *chosen])  # type: ignore[no-untyped-call]

    @classmethod
    def convert_sync_batchnorm(
        cls, module: nn.Module, process_group: Any = None, **choices: Unpack[LayerChoices]
    ) -> nn.Module:
        """syncnorm.torch.convert_sync_batchnorm, making layers of this class."""
        from .conversion.convert import convert_sync_batchnorm

        return convert_sync_batchnorm(module, process_group, layer=cls, **choices)
