"""Let torch.nn.SyncBatchNorm and its converter make syncnorm's layers.

Attributes of torch's class are replaced, not names in modules, so that code that has imported the
class earlier sees the change. While installed, syncnorm's SyncBatchNorm is a real subclass of
torch.nn.SyncBatchNorm, and subclasses of torch.nn.SyncBatchNorm are subclasses of syncnorm's.
"""

from __future__ import annotations

from functools import wraps
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import Unpack

from syncnorm.torch.call import LayerChoices
from syncnorm.torch.conversion.convert import convert_sync_batchnorm
from syncnorm.torch.groups.relative import chosen_group
from syncnorm.torch.layer import SyncBatchNorm, check_options

Arguments = tuple[Any, LayerChoices]

# The arguments of the install() in effect, or empty; and the class, name and former value of each
# attribute that it has replaced.
_arguments: list[Arguments] = []
_replaced: list[tuple[type, str, Any]] = []
_ABSENT = object()


class Installed(NamedTuple):
    """A context manager: on exit it restores what was in effect before its install().

    Attributes:
        previous: The arguments of the install() that was in effect; empty if none was.
    """

    previous: list[Arguments]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if not self.previous:
            uninstall()
        for process_group, choices in self.previous:
            install(process_group, **choices)


def install(
    process_group: Any = None, *, group_size: int | None = None, **choices: Unpack[LayerChoices]
) -> Installed:
    """Let torch.nn.SyncBatchNorm and its converter make syncnorm's layers, in the whole process.

    From then on torch.nn.SyncBatchNorm(...) is a syncnorm.torch.SyncBatchNorm, and
    torch.nn.SyncBatchNorm.convert_sync_batchnorm is syncnorm.torch.convert_sync_batchnorm, also in
    modules that imported the class before. All of syncnorm's layers are instances of
    torch.nn.SyncBatchNorm, and DistributedDataParallel accepts them on the CPU. Subclasses of
    torch.nn.SyncBatchNorm inherit from syncnorm's SyncBatchNorm. Layers that exist already stay as
    they are, and so do those that torch.load or copy.deepcopy makes of them: convert these.

    Calling it again replaces the arguments. Call it in every process of a job: a process that the
    script starts does not inherit it.

    Args:
        process_group, group_size: The group of layers that are created or converted without one;
            as in SyncBatchNorm.
        choices: Options of SyncBatchNorm for every layer that is created or converted.

    Returns:
        A context manager. On exit it restores what was in effect before this call; the layers that
        were made meanwhile keep their class.

    Raises:
        InvalidArgumentError: An option has a value that is not listed. It is a ValueError.
    """
    check_options(dict(choices))
    process_group = chosen_group(process_group, group_size)
    previous = _arguments[:]
    _arguments[:] = [(process_group, choices)]
    if not previous:
        try:
            _replace_attributes()
        except BaseException:
            uninstall()
            raise
    return Installed(previous)


def uninstall() -> None:
    """Restore torch.nn.SyncBatchNorm, however often install() was called.

    Layers keep their class, except those of subclasses of torch.nn.SyncBatchNorm that were defined
    before install(): these are torch's again.
    """
    _arguments.clear()
    while _replaced:
        owner, name, value = _replaced.pop()
        if value is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, value)


def _replace(owner: type, name: str, value: Any) -> None:
    old = owner.__bases__ if name == "__bases__" else vars(owner).get(name, _ABSENT)
    setattr(owner, name, value)
    _replaced.append((owner, name, old))


def _create(self: SyncBatchNorm, *args: Any, **kwargs: Any) -> None:
    """Initialize a layer with the arguments of SyncBatchNorm and those of install()."""
    default, choices = _defaults()
    SyncBatchNorm.__init__(self, *args, **{**choices, **kwargs})
    if self.process_group is None:
        self.process_group = default


def _convert(
    _: type,
    /,
    module: nn.Module,
    process_group: Any = None,
    *,
    group_size: int | None = None,
    **choices: Any,
) -> nn.Module:
    """Return syncnorm.torch.convert_sync_batchnorm(module, process_group, ...)."""
    default, defaults = _defaults()
    group = chosen_group(process_group, group_size)
    choices = {**defaults, **choices}
    return convert_sync_batchnorm(module, default if group is None else group, **choices)


def _defaults() -> Arguments:
    """Return the arguments of install(), or none: a kept converter may be called afterwards."""
    return _arguments[0] if _arguments else (None, {})


class _InstalledBase(SyncBatchNorm):
    """The base class of subclasses of torch.nn.SyncBatchNorm."""

    __init__ = _create
    convert_sync_batchnorm: Any = classmethod(_convert)  # makes no layers of the subclass


def _replace_attributes() -> None:
    theirs: Any = nn.SyncBatchNorm
    init = theirs.__init__
    check_devices: Any = DistributedDataParallel._passing_sync_batchnorm_handle  # noqa: SLF001

    @wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        if type(self) is not theirs:
            init(self, *args, **kwargs)
            return
        self.__class__ = SyncBatchNorm
        _create(self, *args, **kwargs)

    def __init_subclass__(cls: type, /, **kwargs: Any) -> None:  # noqa: N807
        super(theirs, cls).__init_subclass__(**kwargs)
        cls.__bases__ = _exchanged(cls.__bases__, theirs, _InstalledBase)

    @wraps(check_devices)
    def _passing_sync_batchnorm_handle(self: Any, module: nn.Module) -> None:
        # It refuses every SyncBatchNorm on the CPU.
        layers = (each for each in module.modules() if not isinstance(each, SyncBatchNorm))
        check_devices(self, nn.ModuleList(each for each in layers if isinstance(each, theirs)))

    for each in theirs.__subclasses__():
        _replace(each, "__bases__", _exchanged(each.__bases__, theirs, _InstalledBase))
    _replace(SyncBatchNorm, "__bases__", _exchanged(SyncBatchNorm.__bases__, _BatchNorm, theirs))
    _replace(theirs, "__init__", __init__)
    _replace(theirs, "__init_subclass__", classmethod(__init_subclass__))
    _replace(theirs, "convert_sync_batchnorm", classmethod(_convert))
    _replace(DistributedDataParallel, check_devices.__name__, _passing_sync_batchnorm_handle)


def _exchanged(bases: tuple[type, ...], old: type, new: type) -> tuple[type, ...]:
    return tuple(new if each is old else each for each in bases)
