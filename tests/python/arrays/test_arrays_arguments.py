"""What the functions refuse, and what they say then; nothing is written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import syncnorm
from support.cases import simple_case
from support.numpy_arrays import dtype_of
from syncnorm import numpy as bn
from syncnorm.comm import thread_group

GENERATOR = np.random.default_rng(0)
SHAPE = (4, 3, 5)
X = GENERATOR.standard_normal(SHAPE).astype(np.float32)


def zeros(*shape: int, dtype: str = "float32", writeable: bool = True) -> np.ndarray:
    array = np.zeros(shape, dtype_of(dtype) if dtype != "bool" else bool)
    array.flags.writeable = writeable
    return array


def call(**changes: Any) -> None:
    """A complete forward call, with changes. Nothing may be written if it fails."""
    written = {
        "running_mean": zeros(3),
        "running_var": zeros(3),
        "num_batches_tracked": zeros(1, dtype="int64"),
        "out": zeros(*SHAPE),
    }
    given = {"x": X, "weight": zeros(3), "bias": zeros(3), **written, **changes}
    try:
        bn.forward(**given)
    except Exception:
        assert not any(array.any() for array in written.values())
        raise


def changed(**changes: Any) -> dict[str, Any]:
    return changes


REFUSED = {
    "weight: got shape": changed(weight=zeros(5)),
    "weight: got shape (1, 3)": changed(weight=zeros(1, 3)),
    "weight: got shape ()": changed(weight=zeros()),
    "bias: got shape": changed(bias=zeros(3, 1)),
    "bias: got dtype int64": changed(bias=zeros(3, dtype="int64")),
    "weight is float64": changed(weight=zeros(3, dtype="float64")),
    "running_mean: got shape": changed(running_mean=zeros(4)),
    "running_mean: got byte strides (8,)": changed(running_mean=zeros(6)[::2]),
    "running_mean: is read-only": changed(running_mean=zeros(3, writeable=False)),
    "running_var: is read-only": changed(running_var=zeros(3, writeable=False)),
    "running_var is float64": changed(running_var=zeros(3, dtype="float64")),
    "only one of running_mean": changed(running_var=None),
    "num_batches_tracked: got shape (2,)": changed(num_batches_tracked=zeros(2, dtype="int64")),
    "num_batches_tracked: got dtype int32": changed(num_batches_tracked=zeros(1, dtype="int32")),
    "num_batches_tracked: is read-only": changed(
        num_batches_tracked=zeros(1, dtype="int64", writeable=False)
    ),
    "num_batches_tracked is NULL": changed(num_batches_tracked=None, momentum=None),
    "mask: got shape (4, 3, 5), expected (4, 5)": changed(mask=zeros(*SHAPE, dtype="uint8")),
    "mask: got dtype float32": changed(mask=zeros(4, 5)),
    "residual: got shape": changed(residual=zeros(4, 3, 1)),
    "residual: got dtype float64": changed(residual=zeros(*SHAPE, dtype="float64")),
    "residual is given and options.in_place": changed(residual=zeros(*SHAPE), in_place=True),
    "out: got shape": changed(out=zeros(4, 3)),
    "out: got byte strides": changed(out=zeros(5, 3, 4).T),
    "y: is read-only": changed(out=zeros(*SHAPE, writeable=False)),
    "y: got dtype float64": changed(out=zeros(*SHAPE, dtype="float64")),
    "out: shares memory with x": changed(out=X),
    "num_threads is 0": changed(num_threads=0),
    "eps": changed(eps=-1.0),
    "momentum": changed(momentum=2.0),
    "weighting": changed(weighting="counts"),
    "activation": changed(activation="gelu"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_arguments(message: str) -> None:
    before = X.copy()
    with pytest.raises(syncnorm.InvalidArgumentError) as caught:
        call(**REFUSED[message])
    assert message in str(caught.value)
    np.testing.assert_array_equal(X, before)


def test_the_complete_call_is_right() -> None:
    call()
    call(momentum=None, mask=zeros(4, 5, dtype="bool"), residual=zeros(*SHAPE))


WRONG_TYPES = {
    "comm: got int": changed(comm=3),
    "comm: got list": changed(comm=[]),
    "'epsilon'.* eps, momentum, weighting": changed(epsilon=1e-3),
    "num_batches_tracked: got builtins.int": changed(num_batches_tracked=3),
    "residual: got builtins.list": changed(residual=[1.0]),
    "num_threads": changed(num_threads=1.5),
}


@pytest.mark.parametrize("message", WRONG_TYPES)
def test_wrong_types(message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(**WRONG_TYPES[message])


@pytest.mark.parametrize("training", [True, False])
def test_shapes_name_the_channel_axes(training: bool) -> None:
    statistics = {"running_mean": zeros(4, 3), "running_var": zeros(4, 3)}
    text = r"weight: got shape \(3,\), expected \(4, 3\): x has shape .* with channel axes \(0, 1\)"
    with pytest.raises(syncnorm.InvalidArgumentError, match=text):
        bn.forward(X, zeros(3), axis=(0, 1), training=training, **statistics)


@pytest.mark.parametrize("missing", ["running_mean", "running_var"])
def test_inference_needs_statistics(missing: str) -> None:
    given = {"running_mean": zeros(3), "running_var": zeros(3), missing: None}
    with pytest.raises(syncnorm.InvalidArgumentError, match=f"{missing}: got None, expected an"):
        bn.forward(X, training=False, **given)
    with pytest.raises(syncnorm.InvalidArgumentError, match=f"{missing}: got None, expected an"):
        bn.infer(X, None, None, **given)


def test_backward_wants_what_forward_gave() -> None:
    _, saved = bn.forward(X)
    for dy, message in ((zeros(4, 3), "shape"), (zeros(*SHAPE, dtype="float64"), "dtype")):
        with pytest.raises(syncnorm.InvalidArgumentError, match=f"dy: got {message}"):
            bn.backward(dy, saved)
    for bad in (None, (X, saved), X):
        with pytest.raises(
            TypeError, match=r"saved: got .*, expected the second result of a forward"
        ):
            bn.backward(X, bad)
        with pytest.raises(
            TypeError, match=r"saved: got .*, expected the second result of a forward"
        ):
            bn.grad_moments(X, bad)
    with pytest.raises(TypeError, match=r"dy: got builtins.NoneType"):
        bn.backward(None, saved)


def spread(values: np.ndarray, *fields: tuple[str, str]) -> np.ndarray:
    """The values as a field beside others."""
    array = np.zeros(values.shape, [("a", "f8"), *fields])["a"]
    array[...] = values
    return array


@pytest.mark.parametrize("fields", [[("b", "f8")], [("b", "f4")]], ids=["16 apart", "12 apart"])
def test_wires_may_have_gaps(fields: list[tuple[str, str]]) -> None:
    x = X.astype(np.float64)
    wire, local_var = bn.moments(x)
    wires = [wire, 2 * wire, local_var]
    center_wire = bn.center(x, *wires, 2)
    wires = [spread(values, *fields) for values in wires]
    np.testing.assert_array_equal(bn.center(x, *wires, 2), center_wire)
    total = spread(2 * center_wire, *fields)
    y, saved = bn.normalize(x, *wires[:2], 2, center_total=total)
    expected, same = bn.normalize(x, wire, 2 * wire, 2, center_total=2 * center_wire)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(saved.statistics, same.statistics)
    wire = bn.grad_moments(y, saved)
    wires = [spread(values, *fields) for values in (wire, 2 * wire)]
    dx, _, _ = bn.grad_input(y, saved, *wires, 2)
    np.testing.assert_array_equal(dx, bn.grad_input(y, saved, wire, 2 * wire, 2).dx)


def test_wires_are_checked() -> None:
    wire, _ = bn.moments(X)
    for bad, message in (
        (wire[:-1], "got shape"),
        (wire.astype(np.float32), "got dtype float32"),
        (wire[None], "expected one axis"),
    ):
        with pytest.raises(syncnorm.InvalidArgumentError, match=f"total: {message}|{message}"):
            bn.normalize(X, wire, bad, 2)
    with pytest.raises(TypeError, match=r"total: got builtins.NoneType"):
        bn.normalize(X, wire, None, 2)


def test_centering_needs_its_sum() -> None:
    x = X.astype(np.float64)
    wire, local_var = bn.moments(x)
    assert local_var.shape == (3,)
    with pytest.raises(syncnorm.InvalidArgumentError, match="center_total"):
        bn.normalize(x, wire, wire.copy(), 1)


def test_ranks_that_disagree_are_told() -> None:
    def work(rank: int, comm: syncnorm.Communicator) -> None:
        with pytest.raises(syncnorm.DesyncError):
            bn.forward(X, eps=1e-5 if rank == 0 else 1e-3, comm=comm)

    comms = thread_group(2)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, rank, comm) for rank, comm in enumerate(comms)]:
            done.result()
    for comm in comms:
        comm.close()


def test_phases_in_different_calls_are_told() -> None:
    case = simple_case(batches=(2, 2))
    x = [shard.x.astype(np.float32) for shard in case.shards]
    wires = [bn.moments(value, tag=tag)[0] for tag, value in enumerate(x, start=1)]
    with pytest.raises(syncnorm.DesyncError):
        bn.normalize(x[0], wires[0], sum(wires), 2, tag=1)
