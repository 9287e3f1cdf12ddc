"""Convert batch normalization layers to SyncBatchNorm and back, in place.

The class of a layer is swapped, as torch's lazy modules and parametrizations do: its state, hooks
and all references to it survive.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn
from torch.jit import ScriptModule
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase
from typing_extensions import Unpack

from syncnorm import ArgumentTypeError, InvalidArgumentError
from syncnorm.torch.call import LayerChoices
from syncnorm.torch.groups.pickling import HasProcessGroup
from syncnorm.torch.groups.relative import chosen_group
from syncnorm.torch.layer import (
    OWN_ATTRIBUTES,
    SyncBatchNorm,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    SyncBatchNorm3d,
    check_options,
)
from syncnorm.torch.lazy import LazySyncBatchNorm1d, LazySyncBatchNorm2d, LazySyncBatchNorm3d

from . import (
    graph,  # noqa: F401 - registers its rules
    norm_act,
)
from .norm_act import BatchNorm, BatchNormAct, SyncBatchNormAct, SyncBatchNormAct2d
from .registry import (
    NotConvertible,
    ToSync,
    conversion_of,
    register_conversion,
    require_plain,
    restored,
    rule_for,
)
from .sparse import accept_sparse_tensors

# In which class torch's own classes and their subclasses are converted, and back.
_PAIRS: list[tuple[type[nn.Module], type[SyncBatchNorm]]] = [
    (nn.LazyBatchNorm1d, LazySyncBatchNorm1d),
    (nn.LazyBatchNorm2d, LazySyncBatchNorm2d),
    (nn.LazyBatchNorm3d, LazySyncBatchNorm3d),
    (nn.BatchNorm1d, SyncBatchNorm1d),
    (nn.BatchNorm2d, SyncBatchNorm2d),
    (nn.BatchNorm3d, SyncBatchNorm3d),
]

# Plain containers, in which torch finds no submodules.
_CONTAINERS = (dict, list, tuple, set)


def convert_sync_batchnorm(
    module: nn.Module,
    process_group: Any = None,
    *,
    group_size: int | None = None,
    layer: type[SyncBatchNorm] | None = None,
    **choices: Unpack[LayerChoices],
) -> nn.Module:
    """Make every batch normalization in module a SyncBatchNorm, in place, and return module.

    BatchNorm1d, 2d and 3d become SyncBatchNorm1d, 2d and 3d, which are subclasses of them. The
    layers stay the same objects, with their parameters, buffers, hooks and other attributes. Layers
    that compute something of their own are converted by a rule of register_conversion, or left as
    they are, with a warning. The warning also names plain lists, tuples, sets and dicts that hold
    batch normalizations, which are no submodules. Layers that are synchronized already take the
    arguments given.

    Args:
        module: A model, or a layer itself.
        process_group, group_size: As in SyncBatchNorm; None: the group that a layer has, or the
            default group.
        layer: The class to make of torch's own batch normalizations.
        choices: Options of SyncBatchNorm.
    """

    check_options(dict(choices))
    process_group = chosen_group(process_group, group_size)
    if layer is not None and not _is_sync_class(layer):
        raise InvalidArgumentError(
            f"layer: got {layer!r}, expected a subclass of SyncBatchNorm that is not lazy, or None"
        )

    def convert(old: nn.Module, path: str) -> None:
        if isinstance(old, HasProcessGroup):
            _set_arguments(old, process_group, layer, choices)
            return
        if "_converted_from" in vars(old):  # its layers are modules of their own
            return
        if isinstance(old, ScriptModule) and re.fullmatch("BatchNorm[123]d", old.original_name):
            raise NotConvertible("is scripted: convert before torch.jit.script")
        rule = conversion_of(old)
        if rule is None and not isinstance(old, _BatchNorm):
            return
        new = _template(layer, old, choices) if rule is None else rule.to_sync(old, **choices)
        if new is not None:
            _become(old, new, path, process_group)

    for_each_layer(module, convert, "convert_sync_batchnorm", _in_containers(module))
    accept_sparse_tensors(module)
    return module


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Make every SyncBatchNorm, syncnorm's or torch's, in module a layer for one rank, in place.

    A layer that was converted becomes what it was. Others become an nn.BatchNorm1d, 2d or 3d, a
    syncnorm.torch.BatchNorm, or a BatchNormAct if they have an activation. A layer that computes
    what torch's layers cannot is left as it is, with a warning. Returns module.
    """

    def revert(old: nn.Module, _: str) -> None:
        if isinstance(old, SyncBatchNorm):
            swap(old, _reverted(old))
        elif isinstance(old, nn.SyncBatchNorm):
            rule = conversion_of(old)
            if rule is None:
                swap(old, _on_one_rank(_meta_layer(SyncBatchNorm, old)))
            else:
                swap(old, rule.from_sync(rule.to_sync(old), type(old)))
        elif (origin := vars(old).get("_converted_from")) and (rule := rule_for(origin)):
            swap(old, rule.from_sync(old, origin))

    return for_each_layer(module, revert, "revert_sync_batchnorm")


def _become(old: nn.Module, new: nn.Module, path: str, process_group: Any) -> None:
    """Give old the class of new, the template, and the group and path of its layer."""
    origin = type(old)
    group = getattr(old, "process_group", None) if process_group is None else process_group
    swap(old, new)
    vars(old)["_converted_from"] = origin
    if isinstance(old, HasProcessGroup):
        vars(old).update(process_group=group, layer_name=path or None)


def _is_sync_class(layer: Any) -> bool:
    is_sync = isinstance(layer, type) and issubclass(layer, SyncBatchNorm)
    return is_sync and not issubclass(layer, _LazyNormBase)


def _set_arguments(
    old: HasProcessGroup,
    process_group: Any,
    layer: type[SyncBatchNorm] | None,
    choices: LayerChoices,
) -> None:
    """Convert a layer that is synchronized already."""
    if isinstance(old, SyncBatchNorm):
        old.set_options(dict(choices))
    elif unknown := choices.keys() - {"timeout"}:  # of another system
        raise NotConvertible(f"has no option {', '.join(sorted(unknown))}")
    else:
        vars(old).update(choices)
    if process_group is not None:
        old.process_group = process_group
    if layer is None or isinstance(old, layer):
        return
    if type(old).__module__ != SyncBatchNorm.__module__:
        raise NotConvertible(f"is not made a {layer.__name__}")
    names = (*OWN_ATTRIBUTES, "_number", "_converted_from")
    kept = {name: vars(old)[name] for name in names if name in vars(old)}
    swap(old, _meta_layer(layer, old))
    vars(old).update(kept)


def _in_containers(root: nn.Module) -> Iterator[str]:
    """Name the attributes of plain containers with batch normalizations that are no submodules."""
    seen = {id(module) for module in root.modules()}

    def layers(value: Any) -> int:
        if not isinstance(value, (nn.Module, *_CONTAINERS)) or id(value) in seen:
            return 0
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found = (each for each in value.modules() if not isinstance(each, HasProcessGroup))
            return sum(isinstance(each, _BatchNorm) for each in found)
        return sum(map(layers, value.values() if isinstance(value, dict) else value))

    for path, module in root.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, _CONTAINERS) and value and (count := layers(value)):
                yield (
                    f"{path}{'.' * bool(path)}{name} ({type(value).__name__}) holds {count} batch"
                    f" normalization{'s' * (count > 1)} outside of the submodules: use"
                    " nn.ModuleList or nn.ModuleDict"
                )


def _template(
    layer: type[SyncBatchNorm] | None, old: nn.Module, choices: LayerChoices
) -> SyncBatchNorm:
    """Return a template for one of torch's own batch normalizations."""
    clashes = [name for name in OWN_ATTRIBUTES if name in vars(old) and name != "process_group"]
    if clashes:
        raise NotConvertible(f"has attributes {', '.join(clashes)} of its own")
    kind: Any = next((ours for theirs, ours in _PAIRS if isinstance(old, theirs)), SyncBatchNorm)
    if not isinstance(old, _LazyNormBase):
        return _meta_layer(layer or kind, old, **choices)
    if layer is not None:
        raise NotConvertible("is lazy: run one batch through it first")
    lazy: SyncBatchNorm = kind(old.eps, old.momentum, device="meta", **choices)
    return lazy


def _reverted(layer: SyncBatchNorm) -> nn.Module:
    """Return the template of what a layer becomes on one rank."""
    origin: Any = vars(layer).get("_converted_from")
    if origin is not None and (rule := rule_for(origin)):
        return rule.from_sync(layer, origin)
    rule = conversion_of(layer)  # raises for what a subclass has added
    if rule:  # torch's layers of another library, after install()
        require_plain(layer)
        return rule.from_sync(rule.to_sync(layer, activation=layer.activation), type(layer))
    if isinstance(layer, SyncBatchNormAct):
        return _on_one_rank(layer)
    if origin is None:
        origin = next((theirs for theirs, ours in _PAIRS if isinstance(layer, ours)), None)
    is_lazy = isinstance(layer, _LazyNormBase)
    if origin is None or issubclass(origin, nn.SyncBatchNorm) or layer.activation != "identity":
        if is_lazy:
            raise NotConvertible("is lazy: run one batch through it first")
        return _on_one_rank(layer)
    if issubclass(origin, _LazyNormBase) and not is_lazy:
        origin = origin.cls_to_become
    return restored(layer, origin)


def _meta_layer(layer: type[SyncBatchNorm], old: Any, **choices: Any) -> SyncBatchNorm:
    return layer(old.num_features, old.eps, old.momentum, device="meta", **choices)


def _on_one_rank(layer: SyncBatchNorm, _: type[nn.Module] | None = None) -> nn.Module:
    """Return a BatchNorm as the template, or a BatchNormAct if the layer has an activation."""
    if isinstance(layer, SyncBatchNormAct):
        return restored(layer, BatchNormAct)
    if layer.activation == "identity":
        return restored(layer, BatchNorm)
    require_plain(layer)
    modules = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(layer.negative_slope), "elu": nn.ELU()}
    act = modules[layer.activation]
    return BatchNormAct(0, act=act, device="meta").train(layer.training)


def swap(old: nn.Module, new: nn.Module) -> None:
    """Give old the class of new, its options, and its submodules and attributes that old lacks."""
    state, added = vars(old), vars(new)
    try:
        old.__class__ = new.__class__
    except TypeError as error:  # classes with another memory layout
        raise NotConvertible(f"cannot become a {type(new).__name__}: {error}") from error
    for name in (*OWN_ATTRIBUTES, "_number", "_settings", "_converted_from", "_compiled_call_impl"):
        state.pop(name, None)
    state["_modules"] = {**added.get("_modules", {}), **state["_modules"]}
    state.update({name: value for name, value in added.items() if name not in state})
    state.pop("_compiled_call_impl", None)  # compiled for the class that it was


def for_each_layer(
    root: nn.Module,
    convert: Callable[[nn.Module, str], None],
    caller: str,
    others: Iterable[str] = (),
) -> nn.Module:
    """Call convert(module, path) once for every module, and warn of those that it leaves alone.

    `others` are reasons for a warning, too.
    """
    if not isinstance(root, nn.Module):
        raise ArgumentTypeError(f"module: got {type(root).__name__}, expected a torch.nn.Module")
    left: list[str] = []
    for path, module in list(root.named_modules()):
        try:
            convert(module, path)
        except NotConvertible as reason:
            left.append(f"{path or 'the module itself'} ({type(module).__name__}) {reason}")
    left.extend(others)
    if left:
        warnings.warn(f"{caller} left these as they are: {'; '.join(left)}", stacklevel=3)
    return root


SyncBatchNorm.converter = staticmethod(convert_sync_batchnorm)


# Rules for layers of other libraries, which are recognized by name and not imported.


def _refusal(reason: str) -> ToSync:
    def to_sync(_: Any, **__: Any) -> SyncBatchNorm:
        raise NotConvertible(reason)

    return to_sync


def _act_to_sync(old: Any, **choices: Any) -> SyncBatchNorm:
    submodules = sorted(vars(old)["_modules"])
    if submodules != ["act", "drop"]:
        raise NotConvertible(f"has the submodules {submodules}, expected act and drop")
    timms = getattr(sys.modules.get("timm.layers.norm_act"), "BatchNormAct2d", None)
    if timms is not None and isinstance(old, timms):
        return _meta_layer(norm_act.TimmSyncBatchNormAct2d, old, **choices)
    layer = SyncBatchNormAct2d if isinstance(old, nn.BatchNorm2d) else SyncBatchNormAct
    return _meta_layer(layer, old, **choices)


def _apex_to_sync(old: Any, **choices: Any) -> SyncBatchNorm:
    # apex' implementation in Python has neither attribute.
    if getattr(old, "channel_last", False):
        raise NotConvertible(_CHANNELS_LAST)
    if getattr(old, "fuse_relu", False):
        choices["activation"] = "relu"
    return _meta_layer(SyncBatchNorm, old, **choices)


def _abn_to_sync(old: Any, **choices: Any) -> SyncBatchNorm:
    parameter = old.activation_param
    if old.activation == "elu" and parameter != 1:
        raise NotConvertible(f"has an elu with alpha={parameter}")
    if old.activation == "leaky_relu":
        choices["negative_slope"] = parameter
    return _meta_layer(SyncBatchNorm, old, **{**choices, "activation": old.activation})


def _sync_to_abn(layer: SyncBatchNorm, kind: type[nn.Module]) -> nn.Module:
    require_plain(layer)
    new = kind.__new__(kind)
    vars(new)["activation"] = layer.activation
    vars(new)["activation_param"] = 1.0 if layer.activation == "elu" else layer.negative_slope
    return new


_CHANNELS_LAST = "takes its channels in the last dimension"
_APEX = "apex.contrib.groupbn.batch_norm.BatchNorm2d_NHWC"

register_conversion(BatchNormAct, _act_to_sync)
register_conversion("timm.layers.norm_act.BatchNormAct2d", _act_to_sync)
register_conversion("timm.layers.norm_act.SyncBatchNormAct", _act_to_sync, _on_one_rank)
for name in ("sync_batchnorm.SyncBatchNorm", "optimized_sync_batchnorm.SyncBatchNorm"):
    register_conversion(f"apex.parallel.{name}", _apex_to_sync, _on_one_rank)
register_conversion(_APEX, _refusal(_CHANNELS_LAST))
register_conversion("inplace_abn.abn.ABN", _abn_to_sync, _sync_to_abn)
for name in ("InPlaceABN", "InPlaceABNSync"):
    reason = "multiplies by |weight| + eps instead of weight"
    register_conversion(f"inplace_abn.abn.{name}", _refusal(reason))
