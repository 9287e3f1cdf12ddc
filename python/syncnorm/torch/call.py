"""One call of batch normalization as one value."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from syncnorm.settings import Choices, Settings

from .ops.kernels import NO_STATISTICS, Running


class LayerChoices(Choices, total=False):
    """The keyword-only options of SyncBatchNorm; class SyncBatchNorm explains them."""

    freeze: bool
    timeout: float | None


class Affine(NamedTuple):
    """The parameters, (C,) each; None where the layer has none."""

    weight: Tensor | None = None
    bias: Tensor | None = None


class Call(NamedTuple):
    """All that one call computes with, besides its input. A NamedTuple, which dynamo can trace.

    Attributes:
        settings: eps, momentum and the choices.
        training: Use the statistics of the batch over `group`, and update `running`; otherwise use
            `running`, on this rank alone.
        affine: weight and bias.
        running: The running statistics.
        residual: Added before the activation; of the input's shape and dtype.
        mask: Positions that count in the statistics, (N, *spatial) or (N, 1, *spatial), or of the
            input's shape.
        group: The ranks: what `groups.resolve.resolve` takes as process_group.
        name: The layer's name.
        number: That of creation, which identifies a layer without a name; 0: none.
        timeout: Seconds that an all-reduce may take; None: the timeout of the process group.
        update_in_backward: Update `running` also in a call inside a backward pass, which repeats an
            earlier call (activation checkpointing). Compiled code never does.
    """

    settings: Settings
    training: bool
    affine: Affine = Affine()
    running: Running = NO_STATISTICS
    residual: Any = None
    mask: Any = None
    group: Any = None
    name: str | None = None
    number: int = 0
    timeout: float | None = None
    update_in_backward: bool = False
