"""install(): torch's own class and converter make syncnorm's layers, also for earlier imports."""

from __future__ import annotations

import abc
import copy
import gc
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from stand_ins import TimmBatchNormAct, TimmSyncBatchNormAct
from torch import nn
from torch.nn import SyncBatchNorm as ImportedEarlier
from torch.nn.parallel import DistributedDataParallel

import syncnorm
from syncnorm.comm import thread_group
from syncnorm.torch import (
    BatchNormAct,
    LazySyncBatchNorm1d,
    SyncBatchNorm,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    install,
    mmcv,
    revert_sync_batchnorm,
    uninstall,
)

# As frameworks keep it in a table of options.
converter_taken_earlier = nn.SyncBatchNorm.convert_sync_batchnorm


class DefinedEarlier(ImportedEarlier):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class FurtherDefinedEarlier(DefinedEarlier):
    pass


TOUCHED = (
    *(ImportedEarlier, DefinedEarlier, FurtherDefinedEarlier, TimmSyncBatchNormAct),
    *(SyncBatchNorm, SyncBatchNorm2d, LazySyncBatchNorm1d, DistributedDataParallel),
)


def snapshot() -> Any:
    return [(each, list(vars(each).items()), each.__bases__, each.__mro__) for each in TOUCHED]


@pytest.fixture(autouse=True)
def everything_is_restored() -> Iterator[None]:
    before = snapshot()
    yield
    uninstall()
    after = snapshot()
    assert after == before
    for (_, old, *_), (_, new, *_) in zip(before, after, strict=True):
        assert all(one is other for (_, one), (_, other) in zip(old, new, strict=True))


def test_the_constructor_makes_our_layers() -> None:
    install()
    layer = ImportedEarlier(4, 1e-3, 0.2, False, True, None, "cpu", torch.float64)
    assert type(layer) is type(nn.SyncBatchNorm(4)) is SyncBatchNorm
    assert (layer.eps, layer.momentum, layer.weight) == (1e-3, 0.2, None)
    assert layer.running_mean.dtype == torch.float64
    torch.testing.assert_close(
        ImportedEarlier(4).state_dict(), nn.BatchNorm1d(4).state_dict(), rtol=0, atol=0
    )
    assert nn.utils.skip_init(ImportedEarlier, 4).running_mean.shape == (4,)
    assert ImportedEarlier(4, activation="relu").activation == "relu"


def test_the_signature_is_still_that_of_torch() -> None:
    expected = inspect.signature(ImportedEarlier)
    install()
    assert inspect.signature(ImportedEarlier) == expected


@pytest.mark.parametrize("converter", [None, converter_taken_earlier])
def test_the_converter_is_ours(converter: Any) -> None:
    install()
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(nn.LazyBatchNorm1d()))
    norm = model[0]
    assert (converter or ImportedEarlier.convert_sync_batchnorm)(model) is model
    assert (type(model[0]), type(model[1][0])) == (SyncBatchNorm2d, LazySyncBatchNorm1d)
    assert model[0] is norm
    alone = (converter or nn.SyncBatchNorm.convert_sync_batchnorm)(nn.BatchNorm2d(4))
    assert isinstance(alone, SyncBatchNorm)


def test_instances_and_subclasses() -> None:
    existing = [SyncBatchNorm(4), SyncBatchNorm2d(4), LazySyncBatchNorm1d(), mmcv.SyncBatchNorm(4)]
    assert not any(isinstance(each, ImportedEarlier) for each in existing)
    install()
    for each in existing:
        assert isinstance(each, ImportedEarlier)
        assert issubclass(type(each), ImportedEarlier)
    assert isinstance(SyncBatchNorm2d(4), nn.BatchNorm2d)
    assert not isinstance(nn.BatchNorm2d(4), ImportedEarlier)
    assert not issubclass(nn.BatchNorm2d, ImportedEarlier)
    uninstall()
    assert not any(isinstance(each, ImportedEarlier) for each in existing)


@pytest.mark.parametrize("mixins", [(), (abc.ABC,)])
def test_a_subclass_defined_afterwards_is_ours(mixins: tuple[type, ...]) -> None:
    install()
    said: list[Any] = []

    class Doubling(ImportedEarlier, *mixins):  # type: ignore[misc]
        def __init_subclass__(cls, **kwargs: Any) -> None:
            said.append(kwargs)

        def __init__(self, channels: int) -> None:
            super().__init__(channels, momentum=0.5)

        def forward(self, input: torch.Tensor) -> Any:
            return 2 * super().forward(input)

    class Further(Doubling, word=3):
        pass

    class WithoutSuper(ImportedEarlier):
        def __init__(self, channels: int) -> None:
            ImportedEarlier.__init__(self, channels)

    assert said == [{"word": 3}]
    x = torch.randn(5, 4)
    y = nn.BatchNorm1d(4)(x)
    for kind in (Doubling, Further):
        assert issubclass(kind, SyncBatchNorm)
        torch.testing.assert_close(kind(4)(x), 2 * y)
    torch.testing.assert_close(WithoutSuper(4)(x), y)
    layer = Further(4)
    uninstall()
    assert isinstance(layer, SyncBatchNorm)
    torch.testing.assert_close(layer(x), 2 * y)


def test_a_subclass_defined_before_is_ours_until_uninstall() -> None:
    layer = FurtherDefinedEarlier(4)
    with install():
        assert isinstance(layer, SyncBatchNorm)
        assert isinstance(FurtherDefinedEarlier(4), SyncBatchNorm)
        layer.process_group = thread_group(1)[0]  # torch's layer does not know these
        x = torch.randn(5, 4)
        torch.testing.assert_close(layer(x), 2 * nn.BatchNorm1d(4)(x))
    assert not isinstance(layer, SyncBatchNorm)


def test_options_are_the_defaults_of_what_is_made() -> None:
    group = thread_group(1)[0]
    other = thread_group(1)[0]
    install(group, eps_mode="max")
    constructed = ImportedEarlier(4)
    converted = ImportedEarlier.convert_sync_batchnorm(nn.BatchNorm2d(4))
    for layer in (constructed, converted):
        assert (layer.process_group, layer.eps_mode) == (group, "max")
    constructed = ImportedEarlier(4, 1e-5, 0.1, True, True, other, eps_mode="add")
    converted = ImportedEarlier.convert_sync_batchnorm(nn.BatchNorm2d(4), other, eps_mode="add")
    for layer in (constructed, converted):
        assert (layer.process_group, layer.eps_mode) == (other, "add")


def test_a_group_size_is_a_group() -> None:
    install(group_size=2)
    for layer in (
        ImportedEarlier(4),
        ImportedEarlier.convert_sync_batchnorm(nn.BatchNorm1d(4)),
        ImportedEarlier(4, group_size=2),
    ):
        assert "group_size=2" in repr(layer)
    assert ImportedEarlier(4, process_group="node").process_group == "node"
    layer = ImportedEarlier.convert_sync_batchnorm(nn.BatchNorm1d(4), group_size=3)
    assert "group_size=3" in repr(layer)
    with pytest.raises(syncnorm.InvalidArgumentError, match="group_size"):
        install("node", group_size=2)


def test_options_reach_subclasses() -> None:
    install(group_size=2, eps_mode="max")

    class Mine(ImportedEarlier):
        def __init__(self, width: int) -> None:
            super().__init__(width)

    for kind in (Mine, FurtherDefinedEarlier):
        assert (kind(4).group_size, kind(4).eps_mode) == (2, "max")
        # As torch's, the converter makes no layers of the subclass.
        layer = kind.convert_sync_batchnorm(nn.BatchNorm1d(4))
        assert type(layer) is SyncBatchNorm1d
        assert (layer.group_size, layer.eps_mode) == (2, "max")


def test_a_class_that_is_also_another_librarys() -> None:
    class Narrow(nn.BatchNorm2d):
        def __init__(self, width: int) -> None:
            super().__init__(width)

    class Both(SyncBatchNorm2d, Narrow):  # as timm's layers become
        pass

    for options in ({}, {"bias": False}):
        Both(4, **options)
        with install():
            assert isinstance(Both(4, **options), ImportedEarlier)


def test_a_second_conversion_applies_what_it_is_given() -> None:
    group = thread_group(1)[0]
    install()
    model = nn.Sequential(nn.BatchNorm2d(4))
    given = {"eps_mode": "max", "activation": "elu", "weighting": "equal", "timeout": 5.0}
    ImportedEarlier.convert_sync_batchnorm(ImportedEarlier.convert_sync_batchnorm(model), group)
    ImportedEarlier.convert_sync_batchnorm(model, **given)
    assert model[0].process_group is group
    assert {name: getattr(model[0], name) for name in given} == given


def test_a_wrong_option_installs_nothing() -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match="activation"):
        install(activation="gelu")
    with pytest.raises(TypeError, match="nonsense"):
        install(nonsense=1)  # type: ignore[call-arg]


def test_a_failed_install_leaves_nothing_behind() -> None:
    class Mixed(ImportedEarlier):
        pass

    class Refusing(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            raise RuntimeError(f"{name} is fixed")

    kind = Refusing("Kind", (ImportedEarlier,), {})
    with pytest.raises(RuntimeError, match="__bases__ is fixed"):
        install()
    assert Mixed.__bases__ == (ImportedEarlier,)
    del kind
    gc.collect()  # a class is in cycles


def test_installing_twice_is_installing_once() -> None:
    install(eps_mode="max")
    install()
    assert ImportedEarlier(4).eps_mode == "add"
    uninstall()
    assert type(ImportedEarlier(4)) is ImportedEarlier
    uninstall()
    install()
    assert type(ImportedEarlier(4)) is SyncBatchNorm


def test_with_blocks_nest() -> None:
    with install(activation="relu"):
        with install(activation="elu"):
            assert ImportedEarlier(4).activation == "elu"
        layer = ImportedEarlier(4)
        assert layer.activation == "relu"
    assert type(ImportedEarlier(4)) is ImportedEarlier
    assert type(layer) is SyncBatchNorm
    x = torch.randn(5, 4)
    torch.testing.assert_close(layer(x), nn.BatchNorm1d(4)(x).relu())
    assert type(copy.deepcopy(layer)) is type(pickle.loads(pickle.dumps(layer))) is SyncBatchNorm


def test_layers_of_torch_from_before_are_left_until_they_are_converted() -> None:
    layer = ImportedEarlier(4)
    install()
    assert type(layer) is type(pickle.loads(pickle.dumps(layer))) is ImportedEarlier
    assert type(ImportedEarlier.convert_sync_batchnorm(layer)) is SyncBatchNorm


def test_a_layer_of_timm_is_made_and_reverted() -> None:
    """timm's own converter creates its SyncBatchNormAct, and sets drop and act afterwards."""
    install()
    layer = TimmSyncBatchNormAct(4, activation="elu")
    layer.drop, layer.act = nn.Identity(), nn.Tanh()
    x = torch.randn(5, 4)
    plain = nn.BatchNorm1d(4)(x)
    expected = nn.functional.elu(plain).tanh()
    torch.testing.assert_close(layer(x), expected)
    assert isinstance(layer, SyncBatchNorm)
    with pytest.warns(UserWarning, match="has activation='elu'"):
        revert_sync_batchnorm(layer)
    layer.activation = "identity"
    assert type(revert_sync_batchnorm(layer)) is BatchNormAct
    torch.testing.assert_close(layer(x), plain.tanh())
    converted = ImportedEarlier.convert_sync_batchnorm(TimmBatchNormAct(4, nn.ReLU()))
    assert isinstance(converted, ImportedEarlier)


@pytest.fixture
def group_of_one(tmp_path: Any) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_ddp_takes_our_layers_on_the_cpu_and_refuses_torchs() -> None:
    before = nn.Sequential(ImportedEarlier(4))
    install()
    model = DistributedDataParallel(nn.Sequential(ImportedEarlier(4), SyncBatchNorm2d(4)))
    assert isinstance(model.module[1], ImportedEarlier)
    with pytest.raises(ValueError, match="only work with GPU modules"):
        DistributedDataParallel(before)


def test_a_compiled_model() -> None:
    with install(activation="relu"):
        model = ImportedEarlier.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(4)))
        x = torch.randn(5, 4)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), nn.BatchNorm1d(4)(x).relu())


def test_a_converter_that_was_kept_is_still_ours_after_uninstall() -> None:
    with install(activation="relu"):
        kept = ImportedEarlier.convert_sync_batchnorm
    layer = kept(nn.BatchNorm2d(4))
    assert (type(layer), layer.activation) == (SyncBatchNorm2d, "identity")
