"""What syncnorm.cupy does on streams: the current one, control buffers, the status word."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from typing import Any
from unittest import mock

import cupy
import numpy as np
import pytest

import syncnorm
from support import simulated_cuda as simulated
from support.cupy_on_host import array, arrays, host_view
from support.nccl_ranks import WAIT_SECONDS, each, group
from support.simulated_cuda import Stream
from syncnorm import _core
from syncnorm import cupy as bn
from syncnorm.cupy.library import LIBRARY

pytestmark = pytest.mark.usefixtures("pool")

# So large that blocks share channels, which takes tickets.
SHAPE = (8, 3, 65, 63)


def step(x: cupy.ndarray, dy: cupy.ndarray, **settings: Any) -> tuple[Any, ...]:
    """y, dx, dweight, dbias, and what keeps a graph alive."""
    y, saved = bn.forward(x, **settings)
    return *(y, *bn.backward(dy, saved)), saved


def bits(*results: cupy.ndarray | None) -> list[bytes]:
    return [bn.to_numpy(result).tobytes() for result in results if result is not None]


# ------------------------------------------------------------------------------ the current stream


def test_work_is_enqueued_on_the_current_stream_and_waits_for_nothing() -> None:
    x, dy = arrays(SHAPE, 2)
    expected = bits(*step(x, dy)[:2])
    with Stream() as stream:
        with stream.held_back():
            y, dx, *_ = step(x, dy)
            assert np.isnan(host_view(y)).all()
            assert np.isnan(host_view(dx)).all()
        assert bits(y, dx) == expected


def test_copies_are_made_on_the_current_stream() -> None:
    x = arrays(SHAPE, 1)[0].transpose(0, 2, 1, 3)
    with Stream() as stream, stream.held_back():
        y, _ = bn.forward(x, axis=2)
        host_view(x)[...] = 7
    assert not bn.to_numpy(y).any()


# --------------------------------------------------------------------------------- control buffers


def controls(device: int = 0) -> list[Any]:
    """The buffers that this thread keeps on a device."""
    return list(LIBRARY._control_buffers.by_device.get(device, {}).values())


def memsets_of(call: Any) -> int:
    before = simulated.calls("cudaMemsetAsync")
    call()
    return simulated.calls("cudaMemsetAsync") - before


def test_a_control_buffer_saves_memsets_and_is_left_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = cupy.empty(_core.CONTROL_SIZE, "uint8")
    LIBRARY.assign(buffer, 0)
    zeros = mock.Mock(return_value=buffer)
    monkeypatch.setattr(LIBRARY.runtime, "zeros", zeros)
    x, dy = arrays(SHAPE, 2)
    for _ in range(2):
        assert memsets_of(lambda: step(x, dy)) == 0
    zeros.assert_called_once_with(_core.CONTROL_SIZE)
    assert not bn.to_numpy(buffer).any()
    monkeypatch.setattr(LIBRARY, "_control_buffer", lambda *_: None)
    assert memsets_of(lambda: step(x, dy)) > 0


def test_a_stream_has_a_buffer_as_long_as_it_lives() -> None:
    x, dy = arrays(SHAPE, 2)
    step(x, dy)
    (of_default,) = controls()
    with Stream() as stream:
        step(x, dy)
        step(x, dy)
        # The same stream by another object, as of another library.
        with Stream(stream.ptr):
            step(x, dy)
    assert len(controls()) == 2
    del stream
    gc.collect()
    assert controls() == [of_default]


def test_threads_and_devices_have_buffers_of_their_own() -> None:
    all_here = threading.Barrier(2)  # or one thread might do the work of both

    def buffers(device: int) -> list[Any]:
        all_here.wait(WAIT_SECONDS)
        for index in (device, 1 - device):
            with simulated.on_device(index):
                step(*arrays(SHAPE, 2))
                step(*arrays(SHAPE, 2))
        return [*controls(0), *controls(1)]

    made = [buffer for buffers in each([0, 1], buffers) for buffer in buffers]
    assert len(set(map(id, made))) == 4
    devices = [repr(buffer).partition("device=")[2] for buffer in made]
    assert devices == ["'cuda:0')", "'cuda:1')"] * 2


def test_threads_may_share_a_device() -> None:
    problems = [array(a) for a in np.random.default_rng(3).standard_normal((4, *SHAPE))]
    expected = [bits(*step(x, x)[:2]) for x in problems]

    def again_and_again(x: cupy.ndarray) -> list[list[bytes]]:
        with Stream():
            return [bits(*step(x, x)[:2]) for _ in range(5)]

    assert each(problems, again_and_again) == [[one] * 5 for one in expected]


# ------------------------------------------------------------------------------- ranks that differ


def test_ranks_in_different_calls_are_told_at_the_next_call() -> None:
    eps_modes = ["add", "max"]

    def rank(number: int, comm: syncnorm.Communicator) -> str:
        with simulated.on_device(number):
            x, dy = arrays(SHAPE, 2)
            mean, var = array(np.zeros(3)), array(np.ones(3))
            y, saved = bn.forward(
                x, running_mean=mean, running_var=var, comm=comm, eps_mode=eps_modes[number]
            )
            comm.wait(timeout=WAIT_SECONDS)
            assert np.isnan(bn.to_numpy(y)).all()
            assert bits(mean, var) == bits(array(np.zeros(3)), array(np.ones(3)))
            with pytest.raises(syncnorm.DesyncError) as caught:
                bn.backward(dy, saved)
            # It is told once, and the communicator goes on.
            y, saved = bn.forward(x, comm=comm)
            comm.wait(timeout=WAIT_SECONDS)
            assert not np.isnan(bn.to_numpy(y)).any()
            return str(caught.value)

    with group(2) as comms:
        told = each(list(enumerate(comms)), lambda pair: rank(*pair))
    for number, message in enumerate(told):
        assert f"some calls ago on CUDA device {number}" in message


def test_where_running_statistics_are_used_no_rank_is_asked() -> None:
    x = arrays(SHAPE, 1)[0]
    bn.forward(x)
    LIBRARY._status_words[0]._value.value = 5
    y = bn.infer(x, None, None, array(np.zeros(3)), array(np.ones(3)))
    assert not np.isnan(bn.to_numpy(y)).any()
    with pytest.raises(syncnorm.DesyncError):
        bn.moments(x)


# --------------------------------------------------------------------------------------- its end

PROGRAM = """
import sys
sys.path[:0] = {path!r}
from support.cupy_on_host import arrays, cupy_on_host
from syncnorm import cupy as bn
simulated = cupy_on_host()
simulated.__enter__()
y, saved = bn.forward(*arrays((2, 3, 65, 63), 1))
bn.backward(y, saved)
"""


def test_a_program_ends_without_a_complaint() -> None:
    program = PROGRAM.format(path=sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
