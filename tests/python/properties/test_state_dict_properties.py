"""State dicts that do not fit: arrays are unchanged, and a torch layer does what torch's does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from torch import nn

import syncnorm.torch
from syncnorm.arrays.state_dict import NAMES, OPTIONAL
from syncnorm.numpy import SyncBatchNorm

CHANNELS = 3
LAYERS = st.fixed_dictionaries(
    {},
    optional={
        "affine": st.booleans(),
        "track_running_stats": st.booleans(),
        "bias": st.booleans(),
        "dtype": st.sampled_from(("float16", "float64")),
    },
)
FITTING = ((CHANNELS,), (1, CHANNELS), (1, CHANNELS, 1, 1), (CHANNELS, 1), ())
OTHER = ((1,), (CHANNELS + 1,), (0,), (CHANNELS, CHANNELS), (2, CHANNELS))
# All fit float16: NumPy warns of a cast that overflows.
VALUES = st.sampled_from((0.0, 1.0, -2.5, 3e4, np.inf, np.nan))
ALIASES = [alias for aliases in NAMES.values() for alias in aliases]
UNKNOWN = st.sampled_from(
    ("num_batches", "Weight", "", "weight.weight", "running_mean ", "bn1.bias")
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays that may stand for one of the layer, or have another shape or dtype."""
    shape = draw(st.sampled_from(FITTING * 2 + OTHER))
    dtype = draw(
        st.sampled_from(("float32", "float32", "float64", "float16", "int64", "uint8"))
        | st.sampled_from(("complex64", "bool", "S3", "V3", "M8[s]"))
    )
    values = np.full(shape, draw(VALUES), np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if dtype in ("S3", "V3", "M8[s]"):
            return np.zeros(shape, dtype)
        return values.astype(dtype)


NO_ARRAYS = st.sampled_from((None, 1.0, "text", [1.0, 2.0, 3.0], {}, object, b"abc"))


def bits(layer: SyncBatchNorm) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in layer.state_dict().items()}


@given(
    arguments=LAYERS,
    taken=st.sets(st.sampled_from(list(NAMES))),
    added=st.dictionaries(
        st.sampled_from(ALIASES) | UNKNOWN | st.integers(0, 2), arrays() | NO_ARRAYS, max_size=3
    ),
    strict=st.booleans(),
    prefix=st.sampled_from(("", "bn1.")),
)
def test_a_layer_of_arrays_takes_all_of_a_state_or_nothing(
    arguments: dict, taken: set[str], added: dict, strict: bool, prefix: str
) -> None:
    layer = SyncBatchNorm(CHANNELS, **arguments)
    for name in ("weight", "running_mean"):
        if getattr(layer, name) is not None:
            getattr(layer, name)[:] = 7
    own = SyncBatchNorm(CHANNELS, **arguments).state_dict()
    state: dict[Any, Any] = {prefix + name: own[name] for name in own if name not in taken}
    state |= {prefix + name if isinstance(name, str) else name: v for name, v in added.items()}
    before, arrays_before = bits(layer), {name: getattr(layer, name) for name in NAMES}
    try:
        keys = layer.load_state_dict(state, strict=strict, prefix=prefix)
    except (syncnorm.InvalidArgumentError, TypeError):
        keys = None
    event("refused" if keys is None else "loaded")
    if keys is None:
        assert bits(layer) == before
    else:
        missing = {name.removeprefix(prefix) for name in keys.missing_keys}
        assert not strict or not (keys.missing_keys or keys.unexpected_keys)
        for name in own:
            assert (bits(layer)[name] == before[name]) or name not in missing
            given_as = [prefix + alias for alias in NAMES[name] if prefix + alias in state]
            assert len(given_as) == (0 if name in missing else 1) or name == OPTIONAL
            for key in given_as:
                expected = np.asarray(state[key]).reshape(own[name].shape)
                with np.errstate(over="ignore", invalid="ignore"):
                    cast = expected.astype(own[name].dtype)
                np.testing.assert_array_equal(getattr(layer, name), cast)
    # The arrays of the layer are written to, not replaced.
    assert all(getattr(layer, name) is array for name, array in arrays_before.items())


TORCH_LAYERS = st.fixed_dictionaries(
    {}, optional={"affine": st.booleans(), "track_running_stats": st.booleans()}
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    array = draw(arrays().filter(lambda a: a.dtype.kind in "fiub"))
    return torch.from_numpy(np.array(array))


def outcome_of(layer: nn.Module, state: dict, strict: bool) -> tuple[str, dict[str, bytes]]:
    """What load_state_dict returned or raised, and what the layer holds afterwards."""
    try:
        result = str(layer.load_state_dict(state, strict=strict))
    except Exception as error:  # noqa: BLE001 - compared with that of torch's own layer
        result = f"{type(error).__name__}: {error}"
    held = {name: value.numpy().tobytes() for name, value in layer.state_dict().items()}
    return result.replace("SyncBatchNorm", "BatchNorm2d"), held


@given(
    arguments=TORCH_LAYERS,
    taken=st.sets(st.sampled_from(list(NAMES))),
    added=st.dictionaries(
        st.sampled_from(list(NAMES)) | UNKNOWN, tensors() | NO_ARRAYS, max_size=3
    ),
    strict=st.booleans(),
)
def test_a_layer_of_torch_loads_as_its_own_layer_does(
    arguments: dict, taken: set[str], added: dict, strict: bool
) -> None:
    source = nn.BatchNorm2d(CHANNELS, **arguments).state_dict()
    state = {name: value for name, value in source.items() if name not in taken} | added
    ours = outcome_of(syncnorm.torch.SyncBatchNorm(CHANNELS, **arguments), state, strict)
    theirs = outcome_of(nn.BatchNorm2d(CHANNELS, **arguments), state, strict)
    assert ours == theirs
