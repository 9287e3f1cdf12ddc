"""Calls of syncnorm.cupy that are captured in a graph, and replayed on other data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
import pytest

from support import simulated_cuda as simulated
from support.cupy_on_host import Pool, array, host_view
from support.nccl_ranks import WAIT_SECONDS, each, group
from support.simulated_cuda import Graph, Stream
from syncnorm import Communicator
from syncnorm import cupy as bn
from syncnorm.cupy.library import LIBRARY

pytestmark = pytest.mark.usefixtures("pool")

# So large that blocks share channels, which takes scratch.
SHAPE = (8, 3, 65, 63)
STEPS = 3


def as_it_is(values: cupy.ndarray) -> cupy.ndarray:
    return values


def with_gaps(values: cupy.ndarray) -> cupy.ndarray:
    return values[..., ::2]


class Problem:
    """What a rank gives, in memory that stays; new values are written into it before each step."""

    def __init__(self, shape: tuple[int, ...], **settings: Any) -> None:
        self.inputs = [array(np.zeros(shape)) for _ in range(3)]
        self.affine = [array(np.full(3, 1.5)), array(np.full(3, -0.25))]
        self.running = [array(np.zeros(3)), array(np.ones(3))]
        self.count = array(0, "int64")
        self.settings = {"activation": "relu", **settings}

    def fill(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        for given in self.inputs:
            host_view(given)[...] = random.standard_normal(given.shape)

    def step(self, lying: Callable[[cupy.ndarray], cupy.ndarray] = as_it_is) -> tuple[Any, ...]:
        """Both passes: the results, and what a graph needs to be kept."""
        x, dy, residual = map(lying, self.inputs)
        y, saved = bn.forward(
            x,
            *self.affine,
            *self.running,
            residual=residual,
            num_batches_tracked=self.count,
            **self.settings,
        )
        gradients = bn.backward(dy, saved)
        return (y, *gradients, gradients.dresidual), saved

    def bits(self, results: tuple[Any, ...]) -> list[bytes]:
        state = (*self.running, self.count)
        return [bn.to_numpy(each).tobytes() for each in (*results, *state)]


def capture(stream: Stream, call: Callable[[], tuple[Any, Any]]) -> tuple[Graph, Any, Any]:
    stream.begin_capture()
    results, saved = call()
    return stream.end_capture(), results, saved


def spoil(pool: Pool) -> None:
    """Others use what was given back to the pool."""
    for memory in (memory for free in pool.free.values() for memory in free):
        memory[...] = 0x11


def spoilt(pool: Pool) -> bool:
    return all((memory == 0x11).all() for free in pool.free.values() for memory in free)


@pytest.mark.parametrize(
    ("shape", "lying", "settings"),
    [
        (SHAPE, as_it_is, {}),
        (SHAPE, as_it_is, {"momentum": None}),
        (SHAPE, with_gaps, {}),
        ((0, 3, 5, 5), as_it_is, {}),
        ((0, 3, 5, 5), as_it_is, {"momentum": None}),
    ],
    ids=["dense", "average", "with gaps", "empty", "average of nothing"],
)
def test_replays_equal_eager_calls(
    pool: Pool, shape: tuple[int, ...], lying: Any, settings: dict[str, Any]
) -> None:
    captured, eager = Problem(shape, **settings), Problem(shape, **settings)
    with Stream() as stream:
        graph, results, saved = capture(stream, lambda: captured.step(lying))
        for seed in range(STEPS):
            captured.fill(seed)
            eager.fill(seed)
            expected = eager.bits(eager.step(lying)[0])
            spoil(pool)
            graph.launch(stream)
            assert captured.bits(results) == expected
            assert spoilt(pool), "the graph wrote into memory that was given back"
    assert saved.operands.graph_memory


def test_the_copy_of_x_is_kept_where_y_takes_its_part(pool: Pool) -> None:
    x = with_gaps(array(np.zeros(SHAPE)))
    with Stream() as stream:
        graph, y, saved = capture(stream, lambda: bn.forward(x, in_place=True))
        host_view(x)[...] = np.random.default_rng(0).standard_normal(x.shape)
        expected = bn.forward(x)[0]
        spoil(pool)
        graph.launch(stream)
        assert bn.to_numpy(y).tobytes() == bn.to_numpy(expected).tobytes()
        assert spoilt(pool)
    assert saved.x is y


def test_a_layer_adds_up_gradients_at_every_replay(pool: Pool) -> None:
    x, dy = (array(np.zeros(SHAPE)) for _ in range(2))
    captured, eager = bn.SyncBatchNorm(3), bn.SyncBatchNorm(3)

    def step(layer: bn.SyncBatchNorm) -> tuple[Any, Any]:
        y, saved = layer.forward(x)
        return (y, layer.backward(dy, saved)), saved

    with Stream() as stream:
        # With gradients to add to.
        step(captured)
        step(eager)
        graph, results, saved = capture(stream, lambda: step(captured))
        for seed in range(STEPS):
            for given in (x, dy):
                host_view(given)[...] = np.random.default_rng(seed).standard_normal(SHAPE)
            step(eager)
            spoil(pool)
            graph.launch(stream)
            for name in ("weight_grad", "bias_grad", "running_var", "num_batches_tracked"):
                one, other = (bn.to_numpy(getattr(layer, name)) for layer in (captured, eager))
                assert one.tobytes() == other.tobytes(), name
            assert spoilt(pool)
    assert len(results) == 2
    assert saved.operands.graph_memory


def test_a_capture_makes_nothing_that_lasts() -> None:
    """No control buffer, since a replay may run beside others; no memory of the host."""
    problem = Problem(SHAPE)
    with Stream() as stream:
        capture(stream, problem.step)
        assert not LIBRARY._control_buffers.by_device
        assert not LIBRARY._status_words
        problem.step()
        assert len(LIBRARY._control_buffers.by_device[0]) == 1
        assert list(LIBRARY._status_words) == [0]
        # From now on the word is there for graphs as well.
        capture(stream, problem.step)


def test_replays_run_on_another_stream_than_the_capture() -> None:
    captured, eager = Problem(SHAPE), Problem(SHAPE)
    with Stream() as stream:
        graph, results, saved = capture(stream, captured.step)
    captured.fill(7)
    eager.fill(7)
    graph.launch(Stream(0))
    assert captured.bits(results) == eager.bits(eager.step()[0])
    del saved


def test_inference_is_captured() -> None:
    problem = Problem(SHAPE)
    x, (weight, bias), (mean, var) = problem.inputs[0], problem.affine, problem.running
    with Stream() as stream:
        graph, y, _ = capture(stream, lambda: (bn.infer(x, weight, bias, mean, var), None))
        problem.fill(3)
        graph.launch(stream)
        expected = bn.infer(x, weight, bias, mean, var)
        assert bn.to_numpy(y).tobytes() == bn.to_numpy(expected).tobytes()


def test_a_group_with_an_empty_rank_is_captured() -> None:
    """What one empty rank did to graphs elsewhere: NaN on all ranks."""
    shapes = [(0, 3, 9, 9), (4, 3, 9, 9)]

    def rank(pair: tuple[int, Communicator]) -> list[list[bytes]]:
        number, comm = pair
        with simulated.on_device(number), Stream() as stream:
            captured = Problem(shapes[number], momentum=None, comm=comm)
            eager = Problem(shapes[number], momentum=None, comm=comm)
            graph, results, saved = capture(stream, captured.step)
            steps = []
            for seed in range(STEPS):
                captured.fill(seed)
                eager.fill(seed)
                graph.launch(stream)
                comm.wait(stream=stream.ptr, timeout=WAIT_SECONDS)
                eager_results, _ = eager.step()
                comm.wait(stream=stream.ptr, timeout=WAIT_SECONDS)
                steps += [captured.bits(results), eager.bits(eager_results)]
            assert not np.isnan(bn.to_numpy(captured.running[1])).any()
            assert bn.to_numpy(captured.count) == STEPS
            del graph, saved
            return steps

    with group(2) as comms:
        for steps in each(list(enumerate(comms)), rank):
            assert steps[::2] == steps[1::2]
