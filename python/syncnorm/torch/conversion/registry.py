"""The rules for kinds of layers that convert.py does not convert by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

# From a layer and the options for the new one to an instance of SyncBatchNorm.
ToSync = Callable[..., Any]
# From a SyncBatchNorm and the class that it was converted from to an instance of that class.
FromSync = Callable[[Any, type[nn.Module]], nn.Module]

# Names that a subclass may define without computing or offering anything different.
_HARMLESS = {
    "__init__",
    "__repr__",
    "__annotate_func__",  # Python 3.14: how it keeps annotations
    "_check_input_dim",
    "cls_to_become",
    "extra_repr",
}

# Modules of batch normalizations that need no rule: torch's and ours.
_OWN = (_BatchNorm.__module__, "syncnorm.torch.")

# Options with which torch's batch normalization would compute something else.
_NOT_IN_TORCH = {"eps_mode": "max", "variance_factor": "biased", "in_place": True, "freeze": True}


class NotConvertible(Exception):
    """Raised by a rule to leave a layer as it is, with a reason such as `has eps_mode='max'`."""


class Rule(NamedTuple):
    """How to convert one kind of layer to SyncBatchNorm and back."""

    to_sync: ToSync
    from_sync: FromSync


_rules: dict[type[nn.Module] | str, Rule] = {}


def register_conversion(
    kind: type[nn.Module] | str, to_sync: ToSync, from_sync: FromSync | None = None
) -> None:
    """Register how convert_sync_batchnorm and revert_sync_batchnorm treat layers of this kind.

    Either function returns a template: the layer takes its class and the submodules and attributes
    that it lacks, and keeps its own parameters, buffers, submodules, hooks and mode. A template may
    be created with device="meta", or by kind.__new__(kind). Either function raises NotConvertible
    to leave a layer as it is, with a warning.

    Args:
        kind: A class, or "module.ClassName" for one that is not to be imported for that. The rule
            also applies to subclasses, unless they define methods.
        to_sync: Called as to_sync(layer, **choices) with the options of convert_sync_batchnorm.
            Returns an instance of SyncBatchNorm or a subclass, or None to convert the submodules
            only.
        from_sync: Called as from_sync(layer, kind) with the class before the conversion. None:
            restore that class, unless the layer has an option that torch's does not have.
    """
    _rules[kind] = Rule(to_sync, from_sync or restored)


def rule_for(kind: type[nn.Module]) -> Rule | None:
    """Return the rule for this class, or for its nearest base class that has one."""
    return next((rule for rule in map(_rule_of, kind.__mro__) if rule), None)


def conversion_of(layer: nn.Module) -> Rule | None:
    """Return the rule for this layer; raise NotConvertible for methods that the rule ignores."""
    added: list[str] = []
    for ancestor in type(layer).__mro__:
        rule = _rule_of(ancestor)
        if rule or (issubclass(ancestor, _BatchNorm) and ancestor.__module__.startswith(_OWN)):
            break
        for name, value in vars(ancestor).items():
            is_method = callable(value) or isinstance(value, property | classmethod | staticmethod)
            if is_method and name not in _HARMLESS:
                added.append(name)
    else:
        return None
    if is_parametrized(layer):
        raise NotConvertible("has parametrizations")
    replaced = [
        name
        for name, value in vars(layer).items()
        if callable(value) and hasattr(type(layer), name) and name != "_compiled_call_impl"
    ]
    if replaced:
        raise NotConvertible(f"was given another {', '.join(replaced)}")
    if added:
        raise NotConvertible(f"defines {', '.join(dict.fromkeys(added))}")
    return rule


def restored(layer: Any, kind: type[nn.Module]) -> nn.Module:
    """Return a template of this kind for a layer that computes what torch's normalization does."""
    require_plain(layer)
    if layer.activation != "identity":
        raise NotConvertible(f"has activation={layer.activation!r}")
    return kind.__new__(kind)


def require_plain(layer: Any) -> None:
    """Raise NotConvertible for options with which torch's batch normalization would differ."""
    for name, value in _NOT_IN_TORCH.items():
        immaterial = name == "variance_factor" and layer.running_var is None
        if getattr(layer, name) == value and not immaterial:
            raise NotConvertible(f"has {name}={value!r}")


def _rule_of(kind: type) -> Rule | None:
    """Return the rule for exactly this class."""
    return _rules.get(kind) or _rules.get(f"{kind.__module__}.{kind.__qualname__}")
