"""What torch's layers may be told besides what the core computes."""

from __future__ import annotations

from syncnorm.settings import CHOICES, Choices, Settings, core_options

__all__ = ["CHOICES", "Choices", "LayerChoices", "Settings", "core_options"]


class LayerChoices(Choices, total=False):
    """The keyword arguments of SyncBatchNorm after bias; docs/pytorch.md explains them."""

    freeze: bool
    timeout: float | None
