"""The batch normalizations of PyTorch Geometric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from syncnorm.settings import Settings
from syncnorm.torch.call import Call
from syncnorm.torch.dispatch import batch_norm
from syncnorm.torch.groups.pickling import HasProcessGroup
from syncnorm.torch.groups.resolve import resolve
from syncnorm.torch.ops.kernels import Running

from .combined import blank
from .registry import NotConvertible, register_conversion

_PYG = "torch_geometric.nn.norm.batch_norm"


class _EveryRankTakesPart(nn.Module):
    """PyG's BatchNorm with allow_single_element: no rank of a group leaves its layer out."""

    module: Any

    def forward(self, x: Tensor) -> Any:
        if self.training and resolve(self.module.current_group()).synchronized:
            return self.module(x)
        return super().forward(x)


class _OverTypes(HasProcessGroup):
    """PyG's HeteroBatchNorm with the statistics of all ranks.

    As there the running variance is biased and the statistics are constants in backward, which
    therefore needs no all-reduce. Forward makes one per type.
    """

    timeout: float | None = None

    def forward(self, x: Tensor, type_vec: Tensor) -> Any:
        if not self.training:
            return super().forward(x, type_vec)
        layer: Any = self
        mean, var, count = self._statistics(x.detach(), type_vec)
        if layer.track_running_stats:
            factor = layer.momentum
            if factor is None:
                layer.num_batches_tracked.add_(1)
                factor = 1 / layer.num_batches_tracked
            step = factor * (count > 0)
            with torch.no_grad():
                for running, batch in ((layer.running_mean, mean), (layer.running_var, var)):
                    running.copy_((1 - step) * running + step * batch)
        y = (x - mean[type_vec]) / var.clamp(layer.eps).sqrt()[type_vec]
        return y * layer.weight[type_vec] + layer.bias[type_vec] if layer.affine else y

    @torch.no_grad()
    def _statistics(self, x: Tensor, type_vec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and biased variance of each type, (T, C), and whether it occurs, (T, 1)."""
        types: int = self.num_types  # type: ignore[assignment]
        mean, var = x.new_zeros(2, types, x.shape[1]).unbind()
        count = torch.zeros(types, 1, dtype=torch.int64, device=x.device)
        # A momentum of 1 returns the statistics of the batch, and leaves those of no values alone.
        settings = Settings(momentum=1.0, variance_factor="biased")
        group, name = self.current_group(), self.layer_name
        for each in range(types):
            running = Running(mean[each], var[each], count[each, 0])
            call = Call(settings, True, running=running, mask=type_vec == each, group=group)
            batch_norm(x, call._replace(name=name, number=self._number, timeout=self.timeout))
        return mean, var, count


def _bn_to_sync(old: Any, **_: Any) -> nn.Module | None:
    if not old.allow_single_element:
        return None  # its BatchNorm1d is converted by itself
    template: nn.Module = blank(_EveryRankTakesPart, type(old))
    return template


def _hetero_to_sync(old: Any, timeout: float | None = None, **choices: Any) -> nn.Module:
    if choices:
        raise NotConvertible(f"has no option {', '.join(sorted(choices))}")
    template: nn.Module = blank(_OverTypes, type(old))
    vars(template)["timeout"] = timeout
    return template


def _restored(_: Any, kind: type[nn.Module]) -> nn.Module:
    return kind.__new__(kind)


register_conversion(f"{_PYG}.BatchNorm", _bn_to_sync, _restored)
register_conversion(f"{_PYG}.HeteroBatchNorm", _hetero_to_sync, _restored)
