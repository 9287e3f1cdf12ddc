"""From torch's batch normalization to SyncBatchNorm and back, module by module."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from .module import SyncBatchNorm
from .options import CHOICES, Choices

if TYPE_CHECKING:
    from typing_extensions import Unpack

# What a subclass of BatchNorm may define without computing anything else than its base.
_HARMLESS = {"__init__", "_check_input_dim", "extra_repr", "__repr__", "cls_to_become"}

# What SyncBatchNorm adds to a module's attributes.
_OWN = (*CHOICES, "process_group", "_converted_from")

Replacement = tuple[nn.Module, str | None]  # the module to use; why it is the old one, if it is odd
Layer = TypeVar("Layer", bound=nn.Module)


class BatchNorm(_BatchNorm):
    """Batch normalization on one rank for inputs (N, C, ...) of any rank.

    What revert_sync_batchnorm makes of a layer that was not a BatchNorm1d, 2d or 3d before.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


def convert_sync_batchnorm(
    module: nn.Module,
    process_group: Any = None,
    *,
    layer: type[SyncBatchNorm] = SyncBatchNorm,
    **choices: Unpack[Choices],
) -> nn.Module:
    """Replace every torch batch normalization in module, in place, by a SyncBatchNorm.

    Returns module, or its replacement if it is such a layer itself. Parameters, buffers, hooks and
    everything else that was set on a layer are kept, and so is a layer that is used under several
    names. Layers that compute something of their own are left as they are, with a warning.
    """

    def replacement(old: nn.Module) -> Replacement:
        if isinstance(old, SyncBatchNorm) or not isinstance(old, _BatchNorm):
            return old, None
        if isinstance(old, _LazyNormBase):
            return old, "is lazy: run one batch through it first"
        overridden = _overridden(type(old))
        if overridden:
            return old, f"overrides {', '.join(overridden)}"
        new = layer(old.num_features, old.eps, old.momentum, device="meta", **choices)
        group = getattr(old, "process_group", None) if process_group is None else process_group
        return _take_over(new, old, process_group=group, _converted_from=type(old)), None

    return _replace(module, replacement, "convert_sync_batchnorm")


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every SyncBatchNorm, syncbn's or torch's, in module, in place, for use on one rank.

    Layers that were converted become what they were; others become a batch normalization that takes
    inputs of any rank. A layer whose activation or eps_mode torch does not have is left as it is,
    with a warning.
    """

    def replacement(old: nn.Module) -> Replacement:
        if type(old) is nn.SyncBatchNorm:
            return _take_over(BatchNorm.__new__(BatchNorm), old), None
        if not isinstance(old, SyncBatchNorm):
            return old, None
        overridden = _overridden(type(old))
        if overridden:
            return old, f"overrides {', '.join(overridden)}"
        for name in ("activation", "eps_mode"):
            if getattr(old, name) != CHOICES[name]:
                return old, f"has {name}={getattr(old, name)!r}"
        origin = getattr(old, "_converted_from", nn.SyncBatchNorm)
        kind = BatchNorm if issubclass(origin, nn.SyncBatchNorm) else origin
        return _take_over(kind.__new__(kind), old), None

    return _replace(module, replacement, "revert_sync_batchnorm")


def _overridden(kind: type[nn.Module]) -> list[str]:
    """The methods by which kind differs from the batch normalization that it extends."""
    names: list[str] = []
    for ancestor in kind.__mro__:
        if ancestor is SyncBatchNorm or ancestor.__module__ == _BatchNorm.__module__:
            return names
        names += [
            name
            for name, value in vars(ancestor).items()
            if hasattr(_BatchNorm, name)
            and name not in _HARMLESS
            and (callable(value) or isinstance(value, property | classmethod | staticmethod))
        ]
    return names


def _take_over(new: Layer, old: nn.Module, **extra: Any) -> Layer:
    """Give new everything that old is made of: parameters, buffers, hooks, mode, attributes."""
    state = {name: value for name, value in vars(old).items() if name not in _OWN}
    state.pop("_compiled_call_impl", None)  # compiled for the old module
    for name in ("_parameters", "_buffers", "_modules"):
        state[name] = state[name].copy()
    vars(new).update(state)
    vars(new).update(extra)
    for hook in vars(new)["_load_state_dict_pre_hooks"].values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)
    return new


def _replace(
    root: nn.Module, replacement: Callable[[nn.Module], Replacement], caller: str
) -> nn.Module:
    """Replace modules everywhere below root, each object once, and warn of those left alone."""
    done: dict[nn.Module, nn.Module] = {}
    left: list[str] = []

    def visit(old: nn.Module, path: str) -> nn.Module:
        if old in done:
            return done[old]
        new, reason = replacement(old)
        done[old] = done[new] = new
        if reason is not None:
            left.append(f"{path or 'the module itself'} ({type(old).__name__}) {reason}")
        children = vars(new)["_modules"]  # with every name of a shared child, and names without one
        for name, child in children.items():
            if child is not None:
                children[name] = visit(child, f"{path}.{name}" if path else name)
        return new

    result = visit(root, "")
    if left:
        warnings.warn(f"{caller} left these as they are: {'; '.join(left)}", stacklevel=3)
    return result
