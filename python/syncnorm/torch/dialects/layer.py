"""What layers whose tensors have another system's names share: their ranks and their calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from syncnorm.torch.entry import batch_norm
from syncnorm.torch.group import check_timeout
from syncnorm.torch.kept_groups import KeepsGroup
from syncnorm.torch.lists import batch_norm_list
from syncnorm.torch.options import Settings

from .states import TakesArrays


class DialectLayer(TakesArrays, KeepsGroup):
    """process_group, name, timeout: as in syncnorm.torch.SyncBatchNorm."""

    def __init__(self, process_group: Any, name: str | None, timeout: float | None) -> None:
        super().__init__()
        check_timeout(timeout)
        self.process_group = process_group
        self.layer_name = name
        self.timeout = timeout

    def _batch_norm(self, settings: Settings, input: Tensor | Sequence[Tensor], **call: Any) -> Any:
        """entry.batch_norm, or that of a list, over this layer's ranks."""
        normalize: Callable[..., Any] = batch_norm if isinstance(input, Tensor) else batch_norm_list
        return normalize(
            settings,
            input,
            process_group=self.current_group(),
            name=self.layer_name,
            timeout=self.timeout,
            **call,
        )
