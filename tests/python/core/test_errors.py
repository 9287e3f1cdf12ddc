"""Wrong arguments: the right class of error, a message that names the argument, nothing written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import syncnorm
from support import driver
from support.buffers import Buffer, workspace
from support.cases import simple_case
from support.driver import Rank
from support.refusals import (
    CALLS,
    DATA,
    EVERY_ARRAY,
    GROUPS,
    OUTPUTS,
    PARAMETERS,
    REQUIRED,
    WIRES,
    C,
    N,
    S,
    arguments,
    array_like,
    assert_refused,
    buffer_of,
    invoke,
)
from syncnorm import _core


@pytest.fixture(name="rank")
def rank_after_a_run() -> Rank:
    """Every buffer that any of the functions takes, of a valid group of one."""
    case = simple_case(
        batches=(N,), residual=True, masked="some", activation="relu", centering="on"
    )
    ranks = driver.run_phases(case)
    return ranks[0]


@pytest.mark.parametrize("function", CALLS)
def test_the_unchanged_call_is_accepted(function: str, rank: Rank) -> None:
    """Guards the other tests: what they change is what is refused."""
    invoke(function, arguments(function, rank))


@pytest.mark.parametrize("function", ["moments", "grad_moments"])
def test_a_first_phase_leaves_the_arrays_of_later_phases_alone(function: str, rank: Rank) -> None:
    given = arguments(function, rank)
    names = [name for name in CALLS[function].split() if name not in ("wire", "local_var")]
    before = {name: buffer_of(rank, function, name).bits for name in names}
    invoke(function, given)
    assert {name: buffer_of(rank, function, name).bits for name in names} == before


@pytest.mark.parametrize(("function", "name"), EVERY_ARRAY)
def test_wrong_dtype(function: str, name: str, rank: Rank) -> None:
    buffer = buffer_of(rank, function, name)
    for dtype in ("int32", "int64"):
        if dtype == buffer.dtype:
            continue
        wrong = array_like(buffer, dtype=dtype)
        assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize(("function", "name"), [p for p in EVERY_ARRAY if p[1] in DATA[1:]])
def test_data_of_another_dtype_than_x(function: str, name: str, rank: Rank) -> None:
    wrong = Buffer(rank.given["x"].shape, "float16").array
    assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize(("function", "name"), [p for p in EVERY_ARRAY if p[1] in PARAMETERS])
def test_float64_parameters_for_float32_data(function: str, name: str, rank: Rank) -> None:
    wrong = Buffer((C,), "float64").array
    assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize(("function", "name"), [p for p in EVERY_ARRAY if p[1] in PARAMETERS])
def test_16_bit_parameters_for_float64_data(function: str, name: str) -> None:
    case = simple_case("float64", (N,), residual=True, masked="some", activation="relu")
    rank = driver.run_phases(case)[0]
    wrong = Buffer((C,), "float16").array
    assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize(("function", "name"), [p for p in EVERY_ARRAY if p[1] != "x"])
def test_wrong_length(function: str, name: str, rank: Rank) -> None:
    buffer = buffer_of(rank, function, name)
    for size in (buffer.shape[-1] - 1, buffer.shape[-1] + 1):
        if name in WIRES and size > buffer.shape[-1]:
            continue  # a wire may be longer
        wrong = array_like(buffer, shape=(*buffer.shape[:-1], size))
        assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize(("function", "name"), [p for p in EVERY_ARRAY if p[1] != "x"])
def test_wrong_rank(function: str, name: str, rank: Rank) -> None:
    buffer = buffer_of(rank, function, name)
    wrong = array_like(buffer, shape=(*buffer.shape, 2))
    assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize("function", CALLS)
def test_x_without_channels(function: str, rank: Rank) -> None:
    wrong = array_like(rank.given["x"], shape=(N,))
    assert_refused(function, rank, syncnorm.InvalidArgumentError, "x", x=wrong)


@pytest.mark.parametrize(("function", "name"), [p for p in EVERY_ARRAY if p[1] in DATA])
def test_strides_that_are_not_dense(function: str, name: str, rank: Rank) -> None:
    buffer = buffer_of(rank, function, name)
    for strides in ((2 * C * S, S, 1), (C * S, S, 2), (0, S, 1), (-C * S, S, 1)):
        wrong = array_like(buffer, strides=strides)
        assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize(("function", "name"), [p for p in EVERY_ARRAY if p[1] in DATA[1:]])
def test_another_layout_than_x(function: str, name: str, rank: Rank) -> None:
    wrong = array_like(buffer_of(rank, function, name), strides=(C * S, 1, C))
    assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


METADATA_ONLY = (("center", "x"), ("update_running", "x"))


@pytest.mark.parametrize(("function", "name"), [p for p in EVERY_ARRAY if p not in METADATA_ONLY])
def test_null_pointer(function: str, name: str, rank: Rank) -> None:
    wrong = array_like(buffer_of(rank, function, name), pointer=0)
    assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize(("function", "name"), REQUIRED)
def test_missing(function: str, name: str, rank: Rank) -> None:
    assert_refused(function, rank, syncnorm.ArgumentTypeError, name, **{name: None})


@pytest.mark.parametrize(("function", "name"), [p for p in EVERY_ARRAY if p[1] != "x"])
def test_another_device_than_x(function: str, name: str, rank: Rank) -> None:
    wrong = array_like(buffer_of(rank, function, name), device="cuda")
    assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize(
    ("function", "name"), [(f, name) for f, text in OUTPUTS.items() for name in text.split()]
)
def test_read_only_output(function: str, name: str, rank: Rank) -> None:
    wrong = array_like(buffer_of(rank, function, name), read_only=True)
    assert_refused(function, rank, syncnorm.InvalidArgumentError, name, **{name: wrong})


@pytest.mark.parametrize(("function", "name"), EVERY_ARRAY)
def test_what_is_no_array(function: str, name: str, rank: Rank) -> None:
    for wrong in ([1.0, 2.0], 3, "x", object()):
        assert_refused(function, rank, syncnorm.ArgumentTypeError, name, **{name: wrong})


@pytest.mark.parametrize("function", [f for f in CALLS if f not in ("center", "update_running")])
def test_workspace(function: str, rank: Rank) -> None:
    size = rank.sizes.workspace
    assert size > 0
    short, whole = workspace(size - 1), workspace(size + 64)
    moved = _core.Array(whole.bytes.ctypes.data + 8, (size,), (1,), "uint8")
    for wrong in (short.array, moved):
        names = "workspace"
        assert_refused(function, rank, syncnorm.InvalidArgumentError, names, workspace=wrong)
    short.check_guards("short workspace")


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("threads", [0, -1])
def test_num_threads(function: str, threads: int, rank: Rank) -> None:
    names = "num_threads"
    assert_refused(function, rank, syncnorm.InvalidArgumentError, names, num_threads=threads)


@pytest.mark.parametrize("function", CALLS)
def test_a_stream_on_the_cpu(function: str, rank: Rank) -> None:
    assert_refused(function, rank, syncnorm.InvalidArgumentError, "stream", stream=1)


@pytest.mark.parametrize("function", GROUPS)
@pytest.mark.parametrize("size", [0, -2])
def test_group_size(function: str, size: int, rank: Rank) -> None:
    names = "group_size"
    assert_refused(function, rank, syncnorm.InvalidArgumentError, names, group_size=size)


@pytest.mark.parametrize("function", [f for f in GROUPS if f != "normalize"] + ["normalize"])
def test_the_sum_in_place(function: str, rank: Rank) -> None:
    """Both the rank's own wire and the total are needed."""
    given = arguments(function, rank)
    names = "total"
    replaced = {"total": given["wire"], "group_size": 2}
    assert_refused(function, rank, syncnorm.InvalidArgumentError, names, **replaced)


@pytest.mark.parametrize("function", ["moments", "normalize", "forward", "infer"])
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_half_of_the_running_statistics(function: str, name: str, rank: Rank) -> None:
    assert_refused(function, rank, syncnorm.InvalidArgumentError, "running_", **{name: None})


@pytest.mark.parametrize("function", ["moments", "normalize", "forward", "update_running"])
def test_cumulative_average_needs_the_counter(function: str, rank: Rank) -> None:
    options = _core.Options(momentum=None, activation="relu", centering="on")
    replaced = {"options": options, "num_batches_tracked": None}
    names = "num_batches_tracked"
    assert_refused(function, rank, syncnorm.InvalidArgumentError, names, **replaced)


@pytest.mark.parametrize("function", ["normalize", "update_running"])
def test_center_total_where_and_only_where_it_is_needed(function: str, rank: Rank) -> None:
    names = "center_total"
    assert_refused(function, rank, syncnorm.InvalidArgumentError, names, center_total=None)
    options = _core.Options(centering="off", activation="relu")
    assert_refused(function, rank, syncnorm.InvalidArgumentError, names, options=options)


@pytest.mark.parametrize("function", ["grad_moments", "grad_input", "backward", "infer_backward"])
def test_y_without_an_activation(function: str, rank: Rank) -> None:
    options = _core.Options(centering="on")
    assert_refused(function, rank, syncnorm.InvalidArgumentError, "y", options=options)


@pytest.mark.parametrize("function", ["grad_moments", "grad_input", "backward", "infer_backward"])
def test_dx_and_dresidual_in_one_buffer(function: str, rank: Rank) -> None:
    replaced = {"dresidual": rank.array("dx")}
    assert_refused(function, rank, syncnorm.InvalidArgumentError, "dresidual", **replaced)


@pytest.mark.parametrize("function", CALLS)
def test_cuda_is_refused_where_there_is_none(function: str, rank: Rank) -> None:
    found = _core.capabilities()
    if found["cuda_devices"]:
        pytest.skip("a device would be given this test's host memory")
    given = arguments(function, rank)
    for name in CALLS[function].split():
        given[name] = array_like(buffer_of(rank, function, name), device="cuda")
    given["workspace"] = array_like(workspace(1 << 16), device="cuda")  # more than any call needs
    before = {name: buffer.bits for name, buffer in rank.out.items()}
    expected = syncnorm.CudaError if found["cuda_built"] else syncnorm.UnsupportedError
    with pytest.raises(expected, match="CUDA"):
        invoke(function, given)
    assert {name: buffer.bits for name, buffer in rank.out.items()} == before


BAD_OPTIONS: dict[str, list[Any]] = {
    "eps": [-1e-5, np.nan, np.inf, -np.inf],
    "momentum": [-0.1, 1.1, np.nan, np.inf, -1.0],
    "negative_slope": [-0.1, np.nan, np.inf],
    "weighting": ["counts", ""],
    "eps_mode": ["sum"],
    "variance_factor": ["population"],
    "grad_reduction": ["none"],
    "centering": ["yes"],
    "activation": ["gelu"],
}


@pytest.mark.parametrize(("name", "values"), BAD_OPTIONS.items(), ids=BAD_OPTIONS.keys())
def test_options(name: str, values: list[Any]) -> None:
    for value in values:
        more = {"activation": "leaky_relu"} if name == "negative_slope" else {}
        with pytest.raises(syncnorm.InvalidArgumentError, match=name):
            _core.Options(**{name: value, **more})


def test_errors_are_also_what_python_expects() -> None:
    bases = {
        syncnorm.InvalidArgumentError: ValueError,
        syncnorm.ArgumentTypeError: TypeError,
        syncnorm.UnsupportedError: NotImplementedError,
        syncnorm.CommunicatorTimeoutError: TimeoutError,
        syncnorm.OutOfMemoryError: MemoryError,
        syncnorm.DesyncError: RuntimeError,
    }
    for error, base in bases.items():
        assert issubclass(error, base)
        assert issubclass(error, syncnorm.Error)


def test_a_failed_call_leaves_the_next_one_alone(rank: Rank) -> None:
    assert_refused("moments", rank, syncnorm.InvalidArgumentError, "num_threads", num_threads=0)
    invoke("moments", arguments("moments", rank))
