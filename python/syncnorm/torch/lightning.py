"""SyncBatchNorm as a plugin of Lightning's Trainer."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import nn

from .conversion.convert import convert_sync_batchnorm, revert_sync_batchnorm
from .groups.relative import chosen_group
from .layer import check_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .call import LayerChoices

__all__ = ["SyncBatchNorm"]

# Lightning has two packages, each with a class LayerSync of its own.
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


class SyncBatchNorm:
    """Synchronize the batch normalizations of a model while Trainer.fit runs.

    Use it as Trainer(plugins=[SyncBatchNorm()]) instead of sync_batchnorm=True. It is a LayerSync
    of lightning.pytorch and of pytorch_lightning. After fit the layers have their former classes.

    Args:
        process_group, group_size: As in syncnorm.torch.convert_sync_batchnorm; None: all ranks.
        **choices: The options of syncnorm.torch.convert_sync_batchnorm.

    Raises:
        InvalidArgumentError: An option has a value that is not listed, or group_size is below 1.
    """

    def __init__(
        self,
        process_group: Any = None,
        *,
        group_size: int | None = None,
        **choices: Unpack[LayerChoices],
    ) -> None:
        check_options(dict(choices))
        self._process_group = chosen_group(process_group, group_size)
        self._choices = choices
        self._converted: list[nn.Module] = []
        _register()  # Trainer, hence its package, may have been imported since this module was

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert the layers of model in place and return model; the strategy calls it."""
        kinds = [(layer, type(layer)) for layer in model.modules()]
        convert_sync_batchnorm(model, self._process_group, **self._choices)
        self._converted = [layer for layer, kind in kinds if type(layer) is not kind]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Revert the layers that apply converted and return model; the strategy calls it."""
        for layer in self._converted:
            revert_sync_batchnorm(layer)
        self._converted = []
        return model


def _register() -> None:
    """Make SyncBatchNorm a virtual subclass of LayerSync in each Lightning package in use.

    A real base class would import both packages, which takes seconds, where one is used.
    """
    loaded = [package for package in _PACKAGES if package in sys.modules]
    installed = (package for package in _PACKAGES if find_spec(package.partition(".")[0]))
    for package in loaded or [next(installed, _PACKAGES[0])]:
        import_module(f"{package}.plugins.layer_sync").LayerSync.register(SyncBatchNorm)


_register()
