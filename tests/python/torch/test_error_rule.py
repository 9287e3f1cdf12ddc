"""Every public function and class refuses wrong arguments with a syncnorm.Error.

A wrong value is an InvalidArgumentError, which is a ValueError; a wrong type an ArgumentTypeError,
which is a TypeError, too. Where the system of a dialect raises an AssertionError, it is also that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import forward_ad

import syncnorm
import syncnorm.torch as adapter
from syncnorm import ArgumentTypeError, InvalidArgumentError, UnsupportedError
from syncnorm.comm import thread_group
from syncnorm.torch import encoding, functional, megengine, mmcv, mxnet, paddle, weights

# What torch loads for the first dual tensor.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

X = torch.linspace(-1, 1, 12).view(4, 3)
IMAGE, VOLUME = X.view(1, 3, 2, 2), X.view(1, 3, 2, 2, 1)
V = torch.ones(3)
SHORT = torch.ones(2, dtype=torch.float64)

Call = Callable[[], object]


class Case(NamedTuple):
    """What is wrong in a call, the call, its error, and the built-in class that this is."""

    wrong: str
    call: Call
    raises: type[Exception]
    builtin: type[Exception]


def value(wrong: str, call: Call) -> Case:
    return Case(wrong, call, InvalidArgumentError, ValueError)


def kind(wrong: str, call: Call) -> Case:
    return Case(wrong, call, ArgumentTypeError, TypeError)


def asserted(wrong: str, call: Call) -> Case:
    return Case(wrong, call, InvalidArgumentError, AssertionError)


def of_layer(make: Callable[..., nn.Module], x: Tensor = X, lists: bool = True) -> list[Case]:
    """Return cases of a layer that takes x; make takes process_group and timeout."""
    cases = [
        kind("input str", lambda: make()("x")),
        value("input 1-D", lambda: make()(V)),
        value("input integers", lambda: make()(x.long())),
        kind("process_group str", lambda: make(process_group="world")(x)),
        value("process_group twice a rank", lambda: make(process_group=[0, 0])(x)),
        value("timeout 0", lambda: make(timeout=0.0)),
        kind("timeout str", lambda: make(timeout="1 s")),
    ]
    if lists:
        cases += [
            kind("list with an int", lambda: make()([x, 1])),
            value("list of two dtypes", lambda: make()([x, x.double()])),
        ]
    return cases


def of_sync_layer(make: Callable[..., nn.Module], x: Tensor = X) -> list[Case]:
    """Return cases of a layer that has also the options of SyncBatchNorm."""
    values: list[dict[str, Any]] = [
        {"weighting": "median"},
        {"activation": "gelu"},
        {"eps": -1.0},
        {"momentum": 2.0},
        {"freeze": True, "track_running_stats": False},
        {"activation": "relu", "in_place": True},
    ]
    kinds = [{"weighting": 3}, {"eps": "small"}, {"momentum": "0.1"}, {"in_place": "no"}]
    return [
        *of_layer(make, x),
        *(value(f"{option}", lambda option=option: make(**option)(x)) for option in values),
        *(kind(f"{option}", lambda option=option: make(**option)(x)) for option in kinds),
        value("residual shape", lambda: make()(x, x[:, :1])),
        kind("residual str", lambda: make()(x, "residual")),
        value("mask shape", lambda: make()(x, mask=torch.ones(7))),
        value("mask dtype", lambda: make()(x, mask=x[:, 0])),
        kind("mask list", lambda: make()(x, mask=[True])),
        kind("list of masks with an int", lambda: make()([x, x], mask=[None, 1])),
        value("list of masks too short", lambda: make()([x, x], mask=[None])),
    ]


def with_tangent() -> None:
    with forward_ad.dual_level():
        adapter.SyncBatchNorm(3)(forward_ad.make_dual(X, torch.ones_like(X)))


def of_package() -> dict[str, list[Case]]:
    cases: dict[str, list[Case]] = {}
    for name, x in (("", X), ("1d", X), ("2d", IMAGE), ("3d", VOLUME)):
        sync = getattr(adapter, f"SyncBatchNorm{name}")
        lazy = getattr(adapter, f"LazySyncBatchNorm{name}")
        cases[sync.__name__] = [
            *of_sync_layer(lambda sync=sync, **options: sync(3, **options), x),
            value("channels", lambda sync=sync: sync(5)(X)),
            value("empty list", lambda sync=sync: sync(3)([])),
        ]
        cases[lazy.__name__] = [
            *of_sync_layer(lazy, x),
            kind("empty list", lambda lazy=lazy: lazy()([])),
        ]
    cases["SyncBatchNorm"].append(
        Case("tangent", with_tangent, UnsupportedError, NotImplementedError)
    )
    for act in (adapter.SyncBatchNormAct, adapter.SyncBatchNormAct2d):
        make = partial(act, 3)
        cases[act.__name__] = of_sync_layer(make, IMAGE)
    for plain in (adapter.BatchNorm, adapter.BatchNormAct):
        cases[plain.__name__] = [
            value("input 1-D", lambda plain=plain: plain(3)(V)),
            kind("input str", lambda plain=plain: plain(3)("x")),
        ]
    convert, revert = adapter.convert_sync_batchnorm, adapter.revert_sync_batchnorm
    cases["convert_sync_batchnorm"] = [
        value("option", lambda: convert(nn.BatchNorm1d(3), eps_mode="x")),
        kind("option int", lambda: convert(nn.BatchNorm1d(3), eps_mode=1)),
        value("option, again", lambda: convert(adapter.SyncBatchNorm(3), eps_mode="x")),
        value("timeout", lambda: convert(nn.BatchNorm1d(3), timeout=-1.0)),
        kind("module str", lambda: convert("model")),
    ]
    cases["revert_sync_batchnorm"] = [kind("module list", lambda: revert([]))]
    cases["install"] = [
        value("option", lambda: adapter.install(eps_mode="x")),
        kind("option int", lambda: adapter.install(eps_mode=1)),
        kind("group_size", lambda: adapter.install(group_size="2")),
    ]
    cases["uninstall"] = []  # has no arguments
    cases["host_communicator"] = [value("no group", adapter.host_communicator)]
    cases["nccl_communicator"] = [value("no group", adapter.nccl_communicator)]
    replicas, layer = adapter.thread_replicas, adapter.SyncBatchNorm(3)
    cases["thread_replicas"] = [
        value("no layer", lambda: replicas(nn.Linear(3, 3), ["cpu"])),
        value("device", lambda: replicas(layer, ["meta"])),
        value("no device", lambda: replicas(layer, [])),
        value("timeout", lambda: replicas(layer, ["cpu"], -1.0)),
    ]
    return cases


def of_whole_functions() -> dict[str, list[Case]]:
    one, shards = adapter.sync_batch_norm, adapter.sync_batch_norm_shards
    leaf = X.clone().requires_grad_()
    return {
        "sync_batch_norm": [
            value("no statistics", lambda: one(X)),
            kind("input str", lambda: one("x")),
            value("weight length", lambda: one(X, weight=SHORT, training=True)),
            value("weight dtype", lambda: one(X, weight=V.double(), training=True)),
            value("half the statistics", lambda: one(X, V, training=True)),
            value("no count", lambda: one(X, V, V, training=True, momentum=None)),
            value("option", lambda: one(X, training=True, weighting="median")),
            kind("option int", lambda: one(X, training=True, weighting=3)),
            kind("process_group str", lambda: one(X, training=True, process_group="w")),
            value("leaf in place", lambda: one(leaf, training=True, in_place=True)),
        ],
        "sync_batch_norm_shards": [
            value("empty list", lambda: shards([])),
            kind("inputs tensor", lambda: shards(X)),
            kind("inputs int", lambda: shards(3)),
            kind("list of ints", lambda: shards([1, 2])),
            value("channels", lambda: shards([X, X[:, :2]])),
            value("residuals too short", lambda: shards([X, X], residuals=[X])),
            value("masks tensor", lambda: shards([X, X], masks=V)),
            kind("masks int", lambda: shards([X, X], masks=[None, 1])),
            value("option", lambda: shards([X, X], eps=-1.0)),
        ],
    }


def of_phases() -> dict[str, list[Case]]:
    f, s = functional, functional.Settings()
    wire = f.moments(X, s)[0]
    _, saved = f.normalize(X, wire, None, 1, s)
    grad_wire = f.grad_moments(X, X, saved, s)
    calls: dict[str, Callable[[Any, Any], object]] = {
        "moments": f.moments,
        "center": lambda x, s: f.center(x, wire, None, V.double(), 1, s),
        "normalize": lambda x, s: f.normalize(x, wire, None, 1, s),
        "update_running": lambda x, s: f.update_running(x, wire, None, 1, s, V, V),
        "grad_moments": lambda x, s: f.grad_moments(x, X, saved, s),
        "grad_input": lambda x, s: f.grad_input(x, X, saved, grad_wire, None, 1, s),
        "infer": lambda x, s: f.infer(x, V, V, s),
        "infer_backward": lambda x, s: f.infer_backward(x, X, saved, s),
    }
    cases = {
        name: [
            kind("x str", lambda call=call: call("x", s)),
            value("x 1-D", lambda call=call: call(V, s)),
            value("settings", lambda call=call: call(X, s._replace(weighting="median"))),
            kind("settings eps str", lambda call=call: call(X, s._replace(eps="small"))),
        ]
        for name, call in calls.items()
    }
    more = {
        "moments": value("mask", lambda: f.moments(X, s, mask=V)),
        "center": value("wire", lambda: f.center(X, SHORT, None, V.double(), 1, s)),
        "normalize": value("group_size", lambda: f.normalize(X, wire, wire, 0, s)),
        "update_running": value(
            "length", lambda: f.update_running(X, wire, None, 1, s, SHORT, SHORT)
        ),
        "grad_moments": value("dy", lambda: f.grad_moments(X, V, saved, s)),
        "grad_input": value("wire", lambda: f.grad_input(X, X, saved, SHORT, None, 1, s)),
        "infer": value("length", lambda: f.infer(X, SHORT, V, s)),
        "infer_backward": value("saved", lambda: f.infer_backward(X, X, SHORT, s)),
    }
    return {name: [*found, more[name]] for name, found in cases.items()}


def of_weights() -> dict[str, list[Case]]:
    state, convert = nn.BatchNorm1d(3).state_dict(), weights.convert
    return {
        "convert": [
            value("source", lambda: convert(state, "caffe")),
            value("target", lambda: convert(state, "torch", "caffe")),
            value("no layer", lambda: convert({}, "paddle")),
            value("one name twice", lambda: convert({**state, "_mean": V}, "torch", "paddle")),
        ]
    }


def of_paddle() -> dict[str, list[Case]]:
    layer, attribute = paddle.SyncBatchNorm, paddle.ParamAttr
    return {
        "SyncBatchNorm": [
            *of_layer(lambda **options: layer(3, **options), lists=False),
            value("data_format", lambda: layer(3, data_format="NCWH")),
            value("channels", lambda: layer(3)(torch.ones(2, 5))),
        ],
        "ParamAttr": [
            value("learning_rate", lambda: layer(3, weight_attr=attribute(learning_rate=0.5))),
            value("regularizer", lambda: layer(3, bias_attr=attribute(regularizer=1))),
            value("initializer", lambda: layer(3, weight_attr=attribute(initializer="x"))),
        ],
        "convert_sync_batchnorm": [
            kind("layer str", lambda: paddle.convert_sync_batchnorm("x")),
            kind("layer str, method", lambda: layer.convert_sync_batchnorm("x")),
        ],
    }


def of_mxnet() -> dict[str, list[Case]]:
    layer = mxnet.SyncBatchNorm
    return {
        "SyncBatchNorm": [
            *of_layer(layer),
            value("empty list", lambda: layer()([])),
            value("initializer", lambda: layer(gamma_initializer="xavier")),
            value("num_devices", lambda: layer(num_devices=2)(X)),
            value("channels", lambda: layer(5)(X)),
        ]
    }


def of_encoding() -> dict[str, list[Case]]:
    one, two = encoding.BatchNorm1d, encoding.BatchNorm2d
    parallel = encoding.SelfDataParallel
    cases = {
        "BatchNorm1d": [
            *of_layer(lambda **options: one(3, **options)),
            value("empty list", lambda: one(3)([])),
            value("dimensions", lambda: one(3)(IMAGE)),
        ],
        "BatchNorm2d": [
            *of_layer(lambda **options: two(3, **options), IMAGE),
            value("dimensions", lambda: two(3)(X)),
        ],
        "SelfDataParallel": [
            value("no device", lambda: parallel(one(3), [])),
            kind("input list", lambda: parallel(one(3), ["cpu"])([X])),
        ],
        "SelfParallel": [value("input 1-D", lambda: encoding.SelfParallel(one(3))([V]))],
    }
    for kind_of in (encoding.SyncBatchNorm, encoding.BatchNorm3d, encoding.DistSyncBatchNorm):
        cases[kind_of.__name__] = of_layer(partial(kind_of, 3))
    for name in ("batchnormtrain", "batchnormeval"):
        function = getattr(encoding, name)
        cases[name] = [
            value("input 1-D", lambda function=function: function(V, V, V, V, V)),
            kind("input str", lambda function=function: function("x", V, V, V, V)),
        ]
    return cases


def of_mmcv() -> dict[str, list[Case]]:
    def make(process_group: Any = None, **options: Any) -> nn.Module:
        return mmcv.SyncBatchNorm(3, group=process_group, **options)

    return {
        "SyncBatchNorm": [
            *of_layer(make),
            value("stats_mode", lambda: make(stats_mode="n")),
            asserted("stats_mode, asserted", lambda: make(stats_mode="n")),
            asserted("stats_mode, set", lambda: setattr(make(), "stats_mode", "n")),
        ],
        "revert_sync_batchnorm": [kind("module int", lambda: mmcv.revert_sync_batchnorm(3))],
    }


def of_megengine() -> dict[str, list[Case]]:
    def make(process_group: Any = None, **options: Any) -> nn.Module:
        return megengine.SyncBatchNorm(3, group=process_group, **options)

    frozen, function = {"freeze": True, "track_running_stats": False}, megengine.sync_batch_norm
    return {
        "SyncBatchNorm": [
            *of_layer(make, lists=False),
            value("channels", lambda: make()(torch.ones(2, 5))),
            value("freeze", lambda: make(**frozen)),
            asserted("freeze, asserted", lambda: make(**frozen)),
        ],
        "sync_batch_norm": [
            value("inp 1-D", lambda: function(V, V, V)),
            kind("inp str", lambda: function("x", V, V)),
            value("no statistics", lambda: function(X, None, None)),
            value("eps_mode", lambda: function(X, V, V, eps_mode="min")),
            asserted("eps_mode, asserted", lambda: function(X, V, V, eps_mode="min")),
        ],
    }


# By module, and by its public name.
CASES: dict[ModuleType, dict[str, list[Case]]] = {
    adapter: {**of_package(), **of_whole_functions()},
    functional: {**of_whole_functions(), **of_phases()},
    weights: of_weights(),
    paddle: of_paddle(),
    mxnet: of_mxnet(),
    encoding: of_encoding(),
    mmcv: of_mmcv(),
    megengine: of_megengine(),
}

# Public names that take anything, or are no functions and no classes.
REFUSE_NOTHING = {
    adapter: {"NotConvertible", "functional", "register_conversion"},
    functional: {"Gradients", "Settings"},
    weights: {"SYSTEMS"},
    megengine: {"WORLD"},
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{module.__name__.rpartition('.')[2]}.{name}: {case.wrong}")
        for module, by_name in CASES.items()
        for name, cases in by_name.items()
        for case in cases
    ],
)
def test_wrong_arguments(case: Case) -> None:
    with pytest.raises(case.raises) as caught:
        case.call()
    assert isinstance(caught.value, syncnorm.Error)
    assert isinstance(caught.value, case.builtin)
    assert str(caught.value)


@pytest.mark.parametrize("module", CASES, ids=lambda module: module.__name__)
def test_the_table_is_complete(module: ModuleType) -> None:
    assert {*CASES[module], *REFUSE_NOTHING.get(module, ())} == set(module.__all__)


@pytest.fixture
def default_group(tmp_path: Path) -> Iterator[None]:
    init = f"file://{tmp_path / 'meeting'}"
    dist.init_process_group("gloo", init_method=init, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("make", [adapter.host_communicator, adapter.nccl_communicator])
def test_communicators_of_what_is_no_group(make: Any, default_group: None) -> None:
    for group in ("world", 3, np.ones(2), thread_group(1)[0]):
        with pytest.raises(ArgumentTypeError, match=r"^process_group: got"):
            make(group)
    with pytest.raises(InvalidArgumentError, match=r"^process_group: got the ranks"):
        make([0, 7])


def test_other_arguments_of_communicators(default_group: None) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^device: got cpu"):
        adapter.nccl_communicator(device="cpu")
    with pytest.raises(InvalidArgumentError, match=r"^timeout: got"):
        adapter.host_communicator(timeout=-1.0)
