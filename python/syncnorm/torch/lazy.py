"""SyncBatchNorm layers that take their number of channels from the first input."""

from __future__ import annotations

from typing import Any

from torch.nn.modules.batchnorm import _LazyNormBase
from torch.nn.parameter import is_lazy
from typing_extensions import Unpack

from .call import LayerChoices
from .layer import OPTIONS, SyncBatchNorm, SyncBatchNorm1d, SyncBatchNorm2d, SyncBatchNorm3d
from .ops.layout import check_input


class LazySyncBatchNorm(_LazyNormBase, SyncBatchNorm):
    """SyncBatchNorm with num_features from the first input, as torch's lazy modules.

    The first input turns it into a SyncBatchNorm. Until then its parameters have no shape: run one
    batch through the model before it goes to DistributedDataParallel or an optimizer, in evaluation
    or in training on all ranks. The arguments are those of SyncBatchNorm without num_features.
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
        group_size: int | None = None,
        **choices: Unpack[LayerChoices],
    ) -> None:
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        # torch's base class passes only its own arguments on.
        self._set_group(process_group, name, group_size)
        self.set_options({**OPTIONS, **choices})

    def initialize_parameters(self, input: Any, *_: Any, **__: Any) -> None:
        """Create parameters and buffers for the channels of this input, or the first of a list."""
        first = input[0] if isinstance(input, (list, tuple)) and input else input
        check_input(first)
        # A state dict may have brought the shapes already.
        shaped = self.weight if self.running_mean is None else self.running_mean
        unknown = shaped is None or is_lazy(shaped)
        self.num_features = first.shape[1] if unknown else shaped.shape[0]
        if self.has_uninitialized_params():
            for tensor in (self.weight, self.bias, self.running_mean, self.running_var):
                if tensor is not None and is_lazy(tensor):
                    tensor.materialize((self.num_features,))
            self.reset_parameters()


class LazySyncBatchNorm1d(LazySyncBatchNorm):
    """LazySyncBatchNorm that becomes a SyncBatchNorm1d."""

    cls_to_become = SyncBatchNorm1d


class LazySyncBatchNorm2d(LazySyncBatchNorm):
    """LazySyncBatchNorm that becomes a SyncBatchNorm2d."""

    cls_to_become = SyncBatchNorm2d


class LazySyncBatchNorm3d(LazySyncBatchNorm):
    """LazySyncBatchNorm that becomes a SyncBatchNorm3d."""

    cls_to_become = SyncBatchNorm3d
