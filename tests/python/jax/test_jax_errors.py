"""What syncnorm.jax refuses: while tracing, or as an error of the computation."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncnorm import ArgumentTypeError, InvalidArgumentError, UnsupportedError
from syncnorm import jax as adapter
from syncnorm.jax import RunningStatistics, Settings, derivatives, ffi
from syncnorm.jax.layout import Layout

X = np.ones((4, 3, 5), np.float32)


def assert_fails_when_run(call: Any, *texts: str) -> None:
    """In the computation, whose error holds the texts."""
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(call())
    for text in texts:
        assert text in str(caught.value), str(caught.value)


def test_ranks_in_different_calls_are_an_error(x64: bool) -> None:
    wires = jnp.stack([adapter.moments(X, tag=tag)[0] for tag in (1, 2)])
    total = adapter.add_up(wires)
    assert_fails_when_run(
        lambda: adapter.normalize(X, wires[0], total, 2, tag=1), "syncnorm: desync"
    )
    same = adapter.add_up(jnp.stack([wires[0], wires[0]]))
    y, _ = adapter.normalize(X, wires[0], same, 2, tag=1)
    assert not np.isnan(y).any()


def test_layers_of_other_names_have_other_tags() -> None:
    def text(name: str | None) -> str:
        return jax.jit(lambda x: adapter.batch_norm(x, name=name)[0]).lower(X).as_text()

    assert text("first") == text("first")
    assert len({text("first"), text("second"), text(None)}) == 3


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("x", None),
        *((name, "x") for name in ("x", "weight", "bias", "residual", "mask")),
        *((name, object()) for name in ("x", "weight", "bias", "residual", "mask")),
    ],
)
def test_what_is_no_array(name: str, wrong: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=f"{name}: got"):
        adapter.batch_norm(**{"x": X, name: wrong})
    if name != "mask":
        wire, _ = adapter.moments(X)
        with pytest.raises(ArgumentTypeError, match=f"{name}: got"):
            adapter.normalize(**{"x": X, "wire": wire, "total": wire, "group_size": 1, name: wrong})


def test_running_statistics_of_another_type() -> None:
    with pytest.raises(ArgumentTypeError, match="running: got tuple"):
        adapter.batch_norm(X, running=(np.zeros(5), np.ones(5)))
    with pytest.raises(ArgumentTypeError, match=r"running.mean: got None"):
        adapter.batch_norm(X, running=RunningStatistics(None, np.ones(5)))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("weight", np.ones(4, np.float32)),
        ("bias", np.ones(5, np.int32)),
        ("residual", np.ones((4, 3, 4), np.float32)),
        ("mask", np.ones((4, 3), np.float32)),
        ("running", RunningStatistics(np.zeros(5, np.float32), np.ones(4, np.float32))),
        ("running", RunningStatistics(np.zeros(5, np.int32), np.ones(5, np.float32))),
    ],
)
def test_nothing_is_exchanged_by_a_refused_call(
    name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(derivatives, "join", exchange)
    with pytest.raises(InvalidArgumentError, match=name):
        adapter.batch_norm(X, **{name: wrong})


def test_what_the_core_refuses() -> None:
    """float64 parameters for float32 input while tracing, and sums that are not of this shape."""
    with jax.enable_x64(True), pytest.raises(InvalidArgumentError, match="weight: got float64"):
        adapter.batch_norm(X, np.ones(5, np.float64))
    wire, _ = adapter.moments(X)
    assert_fails_when_run(
        lambda: adapter.normalize(X, wire, wire[:3], 1), "total: got 6 values, expected 28"
    )
    assert_fails_when_run(
        lambda: adapter.normalize(X, wire, wire.astype(np.int32), 1), "total: got XLA's type"
    )
    assert_fails_when_run(lambda: adapter.normalize(X, wire, wire, 2), "total is the same buffer")


WIRES = np.zeros((2, 6, 2), np.uint32)
TOTAL = jax.ShapeDtypeStruct((6, 2), np.uint32)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"operands": "wires", "results": "total"}, "no array 'gathered'"),
        ({"operands": "wires gathered", "results": "total"}, "names more arrays than it has"),
        ({"operands": "gathered", "results": "more total"}, "names more arrays than it has"),
        ({"operands": "gathered"}, "no string 'results'"),
        ({"operands": "gathered", "results": 1}, "no string 'results'"),
    ],
    ids=str,
)
def test_a_handler_finds_arrays_by_their_names(names: dict[str, Any], message: str) -> None:
    call = jax.ffi.ffi_call("syncnorm_add_up", [TOTAL])
    assert_fails_when_run(lambda: call(WIRES, **names), message)


def test_add_up_needs_wires_of_the_length_of_the_total() -> None:
    for wires, message in (
        (WIRES[:, :5], "gathered: got 20 values, expected 24"),
        (WIRES.astype(np.float32), "gathered: got XLA's type"),
    ):
        given = {"gathered": wires}
        assert_fails_when_run(partial(ffi.call_handler, "add_up", given, {"total": TOTAL}), message)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": None}, "no number 'eps'"),
        ({"eps": 1}, "no number 'eps'"),
        ({"in_place": "no"}, "no flag 'in_place'"),
        ({"tag": 1.5}, "no integer 'tag'"),
        ({"weighting": "even"}, "weighting: got 'even', expected one of 'count'"),
        ({"x": X.astype(np.int32)}, "x: got XLA's type"),
        ({"x": X[0]}, "x: got 2 axes, expected (N, C, S) or (N, S, C)"),
        ({"mask": X[:, 0]}, "mask: got XLA's type"),
        ({"mask": np.ones((4, 4), bool)}, "mask: got 16 values, expected 20"),
        ({"workspace": jax.ShapeDtypeStruct((1,), np.uint8)}, "launch.workspace_size is 1"),
        ({"workspace": jax.ShapeDtypeStruct((1,), np.int32)}, "workspace: expected uint8"),
        ({"wire": jax.ShapeDtypeStruct((9, 2), np.uint32)}, "wire: got 18 values, expected 20"),
        ({"eps": -1.0}, "options.eps"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_handler_checks_what_it_is_given(changed: dict[str, Any], message: str) -> None:
    """What ffi.call_phase makes of a correct call, with one thing changed."""
    layout, settings = Layout.of(X, 1), Settings()
    operands = {"x": X, "mask": None}
    results = {"wire": jax.ShapeDtypeStruct((10, 2), np.uint32)}
    results["workspace"] = jax.ShapeDtypeStruct((layout.workspace_size(settings),), np.uint8)
    attributes = {**settings._asdict(), "channels_last": False, "tag": 0, "num_threads": 1}
    for name, value in changed.items():
        for group in (operands, results, attributes):
            if name in group:
                group[name] = value
    attributes = {name: value for name, value in attributes.items() if value is not None}
    assert_fails_when_run(
        lambda: ffi.call_handler("moments", operands, results, **attributes), message
    )


def test_running_statistics_must_be_aliased() -> None:
    wire, _ = adapter.moments(X, axis=1)
    statistics = {"running_mean": np.zeros(3, np.float32), "running_var": np.ones(3, np.float32)}
    results = {name: jax.ShapeDtypeStruct((3,), np.float32) for name in statistics}
    operands = {"x": X, "wire": wire, "total": wire, **statistics}
    assert_fails_when_run(
        lambda: ffi.call_phase(
            "update_running", Layout.of(X, 1), Settings(), operands, results, tag=0, group_size=1
        ),
        "running_mean: got different memory as operand and as result",
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"axis": 3}, "axis: got 3, expected one of the 3 axes"),
        ({"weight": np.ones(4)}, r"weight: got shape \(4,\), expected \(3,\)"),
        ({"bias": np.ones((3, 1))}, r"bias: got shape \(3, 1\)"),
        ({"residual": X[:1]}, r"residual: got shape \(1, 3, 5\) and float32"),
        ({"residual": X.astype(np.float16)}, "residual: .* float16, expected"),
        ({"mask": np.ones((4, 3), bool)}, r"mask: got shape \(4, 3\), expected \(4, 5\)"),
        ({"mask": np.ones((4, 5))}, "mask: got float32, expected bool or uint8"),
        ({"running": RunningStatistics(np.ones(2), np.ones(2))}, "running.mean: got shape"),
        ({"training": False}, "running: got None, expected RunningStatistics because training"),
        ({"eps": -1.0}, "options.eps"),
        ({"weighting": "even"}, "weighting: got 'even', expected one of 'count'"),
        (
            {"running": RunningStatistics(np.ones(3), np.ones(3)), "momentum": None},
            "num_batches_tracked: got None",
        ),
    ],
    ids=str,
)
def test_what_is_refused_while_tracing(changed: dict[str, Any], message: str) -> None:
    given = {"axis": 1} | changed
    with pytest.raises(InvalidArgumentError, match=message):
        jax.eval_shape(lambda: adapter.batch_norm(X, **given))


COUNT = "running.num_batches_tracked: got shape"
RUNNING = RunningStatistics(np.zeros(5, np.float32), np.ones(5, np.float32))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "float8_e4m3fn"])
def test_dtypes_of_x_that_are_refused_while_tracing(dtype: str, training: bool) -> None:
    x = jnp.ones((4, 5), dtype)
    with pytest.raises(InvalidArgumentError, match=f"x: got {dtype}, expected one of float16"):
        jax.eval_shape(lambda: adapter.batch_norm(x, running=RUNNING, training=training))


def test_float64_without_x64() -> None:
    with jax.enable_x64(True):
        x = jnp.ones((4, 3), jnp.float64)
    with pytest.raises(InvalidArgumentError, match=r"x: got float64, .*, or jax_enable_x64"):
        jax.eval_shape(lambda: adapter.batch_norm(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", np.ones(5, np.int32)),
        ("weight", "float64"),
        ("running", "float64"),
        ("bias", np.ones(5, np.complex64)),
    ],
    ids=str,
)
def test_dtypes_of_vectors_that_are_refused_while_tracing(
    name: str, value: Any, training: bool
) -> None:
    with jax.enable_x64(True):
        vector = jnp.ones(5, value) if isinstance(value, str) else value
    given = {"running": RUNNING, name: vector}
    if name == "running":
        given[name] = RunningStatistics(vector, vector)
    with pytest.raises(InvalidArgumentError, match=f"{name}.*: got .*, expected one of float16"):
        jax.eval_shape(lambda: adapter.batch_norm(X, training=training, **given))


@pytest.mark.parametrize("count", [np.float32(0), np.zeros(5, np.int32)], ids=str)
def test_a_counter_that_is_no_integer(count: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=COUNT):
        adapter.batch_norm(X, running=RUNNING._replace(num_batches_tracked=count))


def test_settings_are_no_arrays() -> None:
    with pytest.raises(ArgumentTypeError, match="expected a number or None of Python"):
        jax.jit(lambda momentum: adapter.batch_norm(X, running=RUNNING, momentum=momentum))(0.1)


def test_an_axis_that_jax_does_not_know() -> None:
    with pytest.raises(NameError, match="elsewhere"):
        adapter.batch_norm(X, axis_name="elsewhere")
    wire, _ = adapter.moments(X)
    with pytest.raises(NameError, match="elsewhere"):
        adapter.sum_over(wire, "elsewhere")


def test_an_old_jax_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 8, 3))
    with pytest.raises(UnsupportedError, match=r"expected 0\.9\.1 or newer"):
        ffi._register()
