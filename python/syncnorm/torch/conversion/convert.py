"""From torch's batch normalization to SyncBatchNorm and back, module by module."""

from __future__ import annotations

import types
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn
from torch.jit import ScriptModule
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from syncnorm.torch.lazy import LazySyncBatchNorm
from syncnorm.torch.module import OWN_ATTRIBUTES, SyncBatchNorm
from syncnorm.torch.options import LayerChoices

from .foreign import register_known_kinds
from .registry import (
    NotConvertible,
    conversion_of,
    on_one_rank,
    registered,
    restored,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

Layer = TypeVar("Layer", bound=nn.Module)

register_known_kinds()

# Where a module keeps its hooks, by their handles' numbers.
_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))

# What a module does not inherit from the one that it replaces: the options of a SyncBatchNorm, and
# what was compiled for the old module.
_NOT_TAKEN = (*OWN_ATTRIBUTES, "_converted_from", "_compiled_call_impl")

# How torch.jit.ScriptModule calls the batch normalizations in it.
_SCRIPTED = {kind.__name__ for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)}

# From a module and its path below the root to the module that is to stand there.
Replacement = Callable[[nn.Module, str], nn.Module]


def convert_sync_batchnorm(
    module: nn.Module,
    process_group: Any = None,
    *,
    layer: type[SyncBatchNorm] = SyncBatchNorm,
    **choices: Unpack[LayerChoices],
) -> nn.Module:
    """Replace every batch normalization in module, in place, by a SyncBatchNorm.

    Returns module, or its replacement if it is such a layer itself. Parameters, buffers, hooks and
    everything else that was set on a layer are kept, and so is a layer that is used under several
    names. Layers that compute something of their own are converted as register_conversion has been
    told, or left as they are, with a warning.

    layer: what to make of torch's own batch normalizations. choices: keyword arguments for it.
    """

    def replacement(old: nn.Module, path: str) -> nn.Module:
        if isinstance(old, SyncBatchNorm):
            return old
        if isinstance(old, ScriptModule) and old.original_name in _SCRIPTED:
            raise NotConvertible("is scripted: convert before torch.jit.script")
        conversion = conversion_of(old)
        if conversion is None and not isinstance(old, _BatchNorm):
            return old
        to_sync = _to_plain(layer) if conversion is None else conversion.to_sync
        group = getattr(old, "process_group", None) if process_group is None else process_group
        return take_over(
            to_sync(old, **choices),
            old,
            process_group=group,
            layer_name=path or None,
            _converted_from=type(old),
        )

    return replace_modules(module, replacement, "convert_sync_batchnorm")


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every SyncBatchNorm, syncnorm's or torch's, in module, in place, for use on one rank.

    Layers that were converted become what they were; others become a BatchNorm, or a BatchNormAct
    if they have an activation. A layer that computes what torch does not have is left as it is,
    with a warning.
    """

    def replacement(old: nn.Module, _: str) -> nn.Module:
        if isinstance(old, nn.SyncBatchNorm):
            conversion = conversion_of(old)
            to_sync = _to_plain(SyncBatchNorm) if conversion is None else conversion.to_sync
            old = take_over(to_sync(old), old, _converted_from=type(old))
        if not isinstance(old, SyncBatchNorm):
            return old
        return take_over(_reverted(old), old)

    return replace_modules(module, replacement, "revert_sync_batchnorm")


def _to_plain(layer: type[SyncBatchNorm]) -> Callable[..., SyncBatchNorm]:
    """How torch's own batch normalizations are converted to this class."""

    def to_sync(old: Any, **choices: Any) -> SyncBatchNorm:
        clashes = [name for name in OWN_ATTRIBUTES if name in vars(old) and name != "process_group"]
        if clashes:
            raise NotConvertible(f"has attributes {', '.join(clashes)} of its own")
        if not isinstance(old, _LazyNormBase):
            return layer(old.num_features, old.eps, old.momentum, device="meta", **choices)
        if layer is not SyncBatchNorm:
            raise NotConvertible("is lazy: run one batch through it first")
        return LazySyncBatchNorm(old.eps, old.momentum, device="meta", **choices)

    return to_sync


def _reverted(layer: SyncBatchNorm) -> nn.Module:
    origin = vars(layer).get("_converted_from")
    if origin is not None and (conversion := registered(origin)):
        return conversion.from_sync(layer, origin)
    conversion_of(layer)  # raises for what a subclass has added
    if origin is None or issubclass(origin, nn.SyncBatchNorm) or layer.activation != "identity":
        if isinstance(layer, _LazyNormBase):
            raise NotConvertible("is lazy: run one batch through it first")
        return on_one_rank(layer)
    if issubclass(origin, _LazyNormBase) and not isinstance(layer, _LazyNormBase):
        origin = origin.cls_to_become
    return restored(layer, origin)


def take_over(new: Layer, old: nn.Module, **attributes: Any) -> Layer:
    """Give new everything that old is made of: parameters, buffers, hooks, mode, attributes."""
    state = {name: value for name, value in vars(old).items() if name not in _NOT_TAKEN}
    for name in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
        state[name] = state[name].copy()
    state["_modules"] = {**vars(new).get("_modules", {}), **state["_modules"]}
    vars(new).update(state, **attributes)
    for name in _HOOKS:
        _rebind(state[name], new, old)
    return new


def _rebind(hooks: dict[int, Any], new: nn.Module, old: nn.Module) -> None:
    """Make hooks that belong to old belong to new; the dict itself stays, for hooks' handles."""
    for key, hook in hooks.items():
        if getattr(hook, "with_module", False):  # in a wrapper that holds the module
            hook.module = weakref.ref(new)
        inner = getattr(hook, "hook", hook)  # a method of the module, such as lazy modules have
        if getattr(inner, "__self__", None) is old:
            bound = types.MethodType(inner.__func__, new)
            if inner is hook:
                hooks[key] = bound
            else:
                hook.hook = bound


def replace_modules(root: nn.Module, replacement: Replacement, caller: str) -> nn.Module:
    """Replace modules everywhere below root, each object once, and warn of those left alone."""
    done: dict[nn.Module, nn.Module] = {}
    left: list[str] = []

    def visit(old: nn.Module, path: str) -> nn.Module:
        if old in done:
            return done[old]
        try:
            new = replacement(old, path)
        except NotConvertible as reason:
            new = old
            left.append(f"{path or 'the module itself'} ({type(old).__name__}) {reason}")
        done[old] = done[new] = new
        children = vars(new)["_modules"]  # with every name of a shared child, and names without one
        for name, child in children.items():
            if child is None:
                continue
            new_child = visit(child, f"{path}.{name}" if path else name)
            if new_child is not child:  # a scripted module refuses any assignment
                children[name] = new_child
        return new

    result = visit(root, "")
    if left:
        warnings.warn(f"{caller} left these as they are: {'; '.join(left)}", stacklevel=3)
    return result
