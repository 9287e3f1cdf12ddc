"""What the layers of mxnet, paddle and megengine have alike: signatures, states and copies."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from thread_ranks import run_ranks
from torch import Tensor, nn

from support.signatures import positional
from syncnorm.comm import thread_group
from syncnorm.torch import megengine, mxnet, paddle

KINDS: dict[str, Callable[..., Any]] = {
    "mxnet": mxnet.SyncBatchNorm,
    "paddle": paddle.SyncBatchNorm,
    "megengine": megengine.SyncBatchNorm,
}
ALL = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
NAMES = {
    "mxnet": ["gamma", "beta", "running_mean", "running_var"],
    "paddle": ["weight", "bias", "_mean", "_variance"],
    "megengine": ["weight", "bias", "running_mean", "running_var"],
}
SIGNATURES = {
    "mxnet": {
        "in_channels": 0,
        "num_devices": None,
        "momentum": 0.9,
        "epsilon": 1e-5,
        "center": True,
        "scale": True,
        "use_global_stats": False,
        "beta_initializer": "zeros",
        "gamma_initializer": "ones",
        "running_mean_initializer": "zeros",
        "running_variance_initializer": "ones",
    },
    "paddle": {
        "num_features": inspect.Parameter.empty,
        "momentum": 0.9,
        "epsilon": 1e-5,
        "weight_attr": None,
        "bias_attr": None,
        "data_format": "NCHW",
        "name": None,
    },
    "megengine": {
        "num_features": inspect.Parameter.empty,
        "eps": 1e-5,
        "momentum": 0.9,
        "affine": True,
        "track_running_stats": True,
        "freeze": False,
        "group": megengine.WORLD,
    },
}
FUNCTION = {
    "inp": inspect.Parameter.empty,
    "running_mean": inspect.Parameter.empty,
    "running_var": inspect.Parameter.empty,
    "weight": None,
    "bias": None,
    "training": False,
    "momentum": 0.9,
    "eps": 1e-5,
    "eps_mode": "additive",
    "group": megengine.WORLD,
}


def trained(layer: nn.Module) -> Any:
    """Numbers in parameters and buffers that no constructor makes."""
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.uniform_(1, 2)
    return layer


@pytest.mark.parametrize("system", KINDS)
def test_positional_arguments_and_defaults_are_the_system_s(system: str) -> None:
    assert positional(KINDS[system]) == list(SIGNATURES[system].items())


def test_the_function_of_megengine_has_its_arguments() -> None:
    assert positional(megengine.sync_batch_norm) == list(FUNCTION.items())


@pytest.mark.parametrize("system", KINDS)
def test_arguments_by_position_arrive(system: str) -> None:
    """The third and the fourth of mxnet, the second and the third of the others."""
    given = {"mxnet": (4, None, 0.25, 0.5), "paddle": (4, 0.25, 0.5), "megengine": (4, 0.5, 0.25)}
    layer = KINDS[system](*given[system])
    x = torch.randn(6, 4)
    y = layer(x)
    y.sum().backward()
    mean = getattr(layer, NAMES[system][2]).flatten()
    torch.testing.assert_close(mean, 0.75 * x.mean(0))
    torch.testing.assert_close(y, (x - x.mean(0)) / (x.var(0, unbiased=False) + 0.5).sqrt())


@pytest.mark.parametrize("kind_of_value", ["tensors", "arrays", "a file"])
@pytest.mark.parametrize("system", KINDS)
def test_state_dicts_go_around(system: str, kind_of_value: str) -> None:
    source = trained(KINDS[system](4, dtype=torch.float64))
    state: dict[str, Any] = source.state_dict()
    assert list(state) == NAMES[system]
    if kind_of_value == "arrays":
        state = {name: tensor.numpy().copy() for name, tensor in state.items()}
    elif kind_of_value == "a file":
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    model = nn.Sequential(KINDS[system](4, dtype=torch.float64))
    model.load_state_dict({f"0.{name}": value for name, value in state.items()}, strict=True)
    torch.testing.assert_close(model[0].state_dict(), source.state_dict(), rtol=0, atol=0)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(model.eval()(x), source.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("system", KINDS)
def test_a_state_dict_must_have_all_and_nothing_else(system: str) -> None:
    state = KINDS[system](4).state_dict()
    for name in NAMES[system]:
        without = {key: value for key, value in state.items() if key != name}
        with pytest.raises(RuntimeError, match=rf'Missing key.*"{name}"'):
            KINDS[system](4).load_state_dict(without, strict=True)
    more = {**state, "num_batches_tracked": torch.tensor(1)}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"num_batches_tracked"'):
        KINDS[system](4).load_state_dict(more, strict=True)


@ALL
def test_a_loaded_array_is_copied(kind: Any) -> None:
    layer = kind(4)
    arrays = {name: tensor.numpy().copy() for name, tensor in layer.state_dict().items()}
    layer.load_state_dict(arrays, strict=True, assign=True)
    for array in arrays.values():
        array[...] = np.nan
    assert layer(torch.randn(3, 4)).isfinite().all()


@ALL
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_are_like_the_layer_and_their_own(kind: Any, copied: Any) -> None:
    layer = trained(kind(4)).eval()
    other = copied(layer)
    assert type(other) is kind
    assert repr(other) == repr(layer)
    assert not other.training
    x = torch.randn(3, 4)
    assert torch.equal(other(x), layer(x))
    state = copy.deepcopy(layer.state_dict())
    trained(other)
    torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("system", KINDS)
def test_deep_copies_talk_in_the_same_group(system: str) -> None:
    xs = [torch.randn(n, 4) for n in (2, 5)]
    group = "group" if system == "megengine" else "process_group"

    def body(rank: int, communicator: Any) -> list[Tensor]:
        layer = KINDS[system](4, **{group: communicator})
        return [each(xs[rank]) for each in (layer, copy.deepcopy(layer), copy.copy(layer))]

    for outputs in run_ranks(2, body):
        assert torch.equal(outputs[0], outputs[1])
        assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("system", KINDS)
def test_a_pickled_communicator_is_asked_for_again(system: str) -> None:
    group = "group" if system == "megengine" else "process_group"
    layer = KINDS[system](4, **{group: thread_group(2)[0]})
    loaded = pickle.loads(pickle.dumps(layer))
    loaded.eval()(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"saved with a syncnorm\.Communicator \(rank 0 of 2\)"):
        loaded.train()(torch.zeros(2, 4))


@ALL
def test_a_timeout_that_cannot_be_counted_is_refused(kind: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"timeout: got -1\.0, expected seconds"):
        kind(3, timeout=-1.0)
