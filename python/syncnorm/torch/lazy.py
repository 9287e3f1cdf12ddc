"""SyncBatchNorm that learns its number of channels from the first input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn.modules.batchnorm import _LazyNormBase
from torch.nn.parameter import is_lazy

from .module import OWN_ATTRIBUTES, SyncBatchNorm

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import LayerChoices


class LazySyncBatchNorm(_LazyNormBase, SyncBatchNorm):
    """SyncBatchNorm whose num_features is taken from the first input, as in torch.nn.LazyModules.

    With the first input it becomes a SyncBatchNorm. Until then its parameters have no shape: run
    one batch through the model before DistributedDataParallel or an optimizer takes them, in
    evaluation, or in training on all ranks.

    The arguments are those of SyncBatchNorm without num_features.
    """

    cls_to_become = SyncBatchNorm

    def __init__(
        self,
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
        **choices: Unpack[LayerChoices],
    ) -> None:
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        # torch's base passes no more than its own arguments on: a layer without channels takes
        # and checks the others.
        options = SyncBatchNorm(
            0,
            eps,
            momentum,
            track_running_stats=track_running_stats,
            process_group=process_group,
            name=name,
            **choices,
        )
        vars(self).update({key: vars(options)[key] for key in OWN_ATTRIBUTES})

    def initialize_parameters(self, input: Any, *_: Any, **__: Any) -> None:
        """Make parameters and buffers for the channels of this input, or of the first in a list."""
        first = input[0] if isinstance(input, list | tuple) else input
        if first.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {first.dim()}D input)")
        # A state dict may have brought the shapes already.
        shaped = self.weight if self.running_mean is None else self.running_mean
        made_here = shaped is None or is_lazy(shaped)
        self.num_features = first.shape[1] if made_here else shaped.shape[0]
        if self.has_uninitialized_params():
            for tensor in (self.weight, self.bias, self.running_mean, self.running_var):
                if tensor is not None and is_lazy(tensor):
                    tensor.materialize((self.num_features,))
            self.reset_parameters()
