"""Which kinds of layers are converted in a way of their own: a registry that others may add to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from syncnorm.torch.lazy import LazySyncBatchNorm
from syncnorm.torch.module import SyncBatchNorm

from .norm_act import BatchNorm, BatchNormAct, SyncBatchNormAct

ToSync = Callable[..., SyncBatchNorm]
FromSync = Callable[[SyncBatchNorm, type[nn.Module]], nn.Module]

# What a subclass may define without computing or offering anything else than its base.
_HARMLESS = {
    "__init__",
    "__repr__",
    "__annotate_func__",  # Python 3.14: how it keeps annotations
    "_check_input_dim",
    "cls_to_become",
    "extra_repr",
}

# Besides those of torch, the layers that are converted and reverted without a registration.
_own: set[type[nn.Module]] = {SyncBatchNorm, LazySyncBatchNorm, SyncBatchNormAct, BatchNorm}


class NotConvertible(Exception):
    """What a conversion raises for a layer to be left as it is; the message says what it has.

    It completes a sentence: `has eps_mode='max'`, `takes its channels last`.
    """


@dataclass(frozen=True)
class Conversion:
    """The two ways between a kind of layer and SyncBatchNorm."""

    to_sync: ToSync
    from_sync: FromSync


_registered: dict[type[nn.Module] | str, Conversion] = {}


def register_conversion(
    kind: type[nn.Module] | str, to_sync: ToSync, from_sync: FromSync | None = None
) -> None:
    """Say how convert_sync_batchnorm and revert_sync_batchnorm treat layers of this kind.

    kind: a class, or "module.ClassName" for one that is not to be imported for that. It holds for
    subclasses too, unless they define methods.
    to_sync(old, **choices): a new SyncBatchNorm, or instance of a subclass, for old; choices are
    the keyword arguments that convert_sync_batchnorm was given for layers.
    from_sync(layer, kind): a new module of that kind (the class that the layer was converted from)
    for layer. Left out: the kind as it was, for layers with no activation or other option that
    torch's batch normalization does not have.

    Either way the new object is then given all that the old one consists of: parameters, buffers,
    submodules, hooks, mode and attributes, but for the options of SyncBatchNorm, which stay as
    to_sync has set them. So it may be made with device="meta", or by kind.__new__(kind). To leave a
    layer as it is, with a warning, raise NotConvertible.
    """
    _registered[kind] = Conversion(to_sync, from_sync or restored)


def register_own(kind: type[SyncBatchNorm]) -> None:
    """Say that this subclass of ours is reverted as SyncBatchNorm is, whatever it defines."""
    _own.add(kind)


def registered(kind: type[nn.Module]) -> Conversion | None:
    """What was registered for this class itself or the nearest that it extends."""
    for ancestor in kind.__mro__:
        found = _registered.get(ancestor) or _registered.get(_name(ancestor))
        if found:
            return found
    return None


def conversion_of(old: nn.Module) -> Conversion | None:
    """What was registered for the class of this layer, or for the one that it extends.

    Raises NotConvertible for a layer of which we know how a class that it extends is converted, but
    which defines methods beyond those, or has been given some.
    """
    added: list[str] = []
    for ancestor in type(old).__mro__:
        conversion = _registered.get(ancestor) or _registered.get(_name(ancestor))
        if conversion or ancestor in _own or _is_torchs(ancestor):
            _require_own_methods(old)
            if added:
                raise NotConvertible(f"defines {', '.join(dict.fromkeys(added))}")
            return conversion
        added += _methods(ancestor)
    return None


def _is_torchs(kind: type) -> bool:
    return issubclass(kind, _BatchNorm) and kind.__module__ == _BatchNorm.__module__


def _methods(kind: type) -> list[str]:
    return [
        name
        for name, value in vars(kind).items()
        if name not in _HARMLESS
        and (callable(value) or isinstance(value, property | classmethod | staticmethod))
    ]


def _require_own_methods(old: nn.Module) -> None:
    """Raise NotConvertible for an object that does not do what its class says."""
    if is_parametrized(old):
        raise NotConvertible("has parametrizations")
    replaced = [
        name
        for name, value in vars(old).items()
        if callable(value) and hasattr(type(old), name) and name != "_compiled_call_impl"
    ]
    if replaced:
        raise NotConvertible(f"was given another {', '.join(replaced)}")


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def restored(layer: SyncBatchNorm, kind: type[nn.Module]) -> nn.Module:
    """An empty module of this kind, for a layer that computes what torch's normalization does."""
    require_plain(layer)
    if layer.activation != "identity":
        raise NotConvertible(f"has activation={layer.activation!r}")
    return kind.__new__(kind)


def on_one_rank(layer: SyncBatchNorm) -> nn.Module:
    """A BatchNorm for this layer, or a BatchNormAct where it has an activation."""
    require_plain(layer)
    if isinstance(layer, SyncBatchNormAct):
        return restored(layer, BatchNormAct)
    act = _activation_module(layer)
    if act is None:
        return BatchNorm.__new__(BatchNorm)
    return BatchNormAct(0, act=act, device="meta").train(layer.training)


def _activation_module(layer: SyncBatchNorm) -> nn.Module | None:
    """The layer's own activation as a module of torch; None for the identity."""
    modules = {
        "identity": None,
        "relu": nn.ReLU(),
        "leaky_relu": nn.LeakyReLU(layer.negative_slope),
        "elu": nn.ELU(),
    }
    return modules[layer.activation]


def require_plain(layer: SyncBatchNorm) -> None:
    """Raise NotConvertible for what torch's batch normalization would compute otherwise."""
    if layer.eps_mode != "add":
        raise NotConvertible(f"has eps_mode={layer.eps_mode!r}")
    if layer.variance_factor == "biased" and layer.running_var is not None:
        raise NotConvertible(f"has variance_factor={layer.variance_factor!r}")
    if layer.in_place:  # which treats weights near 0 otherwise
        raise NotConvertible("has in_place=True")
    if layer.freeze:
        raise NotConvertible("has freeze=True")
