"""What syncnorm.cupy does on the device's streams: it waits for nothing, and can be captured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

cupy = pytest.importorskip("cupy", reason="CuPy is not installed on this machine")

from cupy_arrays import bits, random  # noqa: E402

import syncnorm  # noqa: E402
from support.nccl_ranks import each  # noqa: E402
from syncnorm import cupy as bn  # noqa: E402

SHAPE = (8, 6, 65, 63)
WAIT_SECONDS = 60.0


@pytest.fixture(name="stream", autouse=True)
def a_stream_of_cupy() -> Iterator[Any]:
    """The current one, which does not wait for the default stream, nor that for it."""
    with cupy.cuda.Stream(non_blocking=True) as stream:
        yield stream


class Problem:
    """A rank's arrays, which stay where they are while their values change."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0, **settings: Any) -> None:
        self.x, self.dy, self.residual = (random(shape, seed + i) for i in range(3))
        self.weight, self.bias = (random(shape[1:2], seed + 3 + i) for i in range(2))
        self.running_mean = cupy.zeros(shape[1], "float32")
        self.running_var = cupy.ones(shape[1], "float32")
        self.num_batches_tracked = cupy.zeros((), "int64")
        self.settings = {"activation": "relu", **settings}

    def fill(self, seed: int) -> None:
        for i, array in enumerate((self.x, self.dy, self.residual)):
            array[...] = random(array.shape, seed + i)

    def step(self, lying: Callable[[Any], Any] = lambda array: array) -> tuple[Any, Any]:
        """Both passes: the results, and what a graph needs to be kept."""
        names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        y, saved = bn.forward(
            lying(self.x),
            **{name: getattr(self, name) for name in names},
            residual=lying(self.residual),
            **self.settings,
        )
        gradients = bn.backward(lying(self.dy), saved)
        return (y, *gradients, gradients.dresidual), saved

    def bits(self, results: tuple[Any, ...]) -> list[bytes]:
        return bits(*results, self.running_mean, self.running_var, self.num_batches_tracked)


@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": None}, {"centering": "on"}, {"weighting": "batch"}],
    ids=str,
)
def test_nothing_waits_for_the_device(stream: Any, settings: dict[str, Any]) -> None:
    """A function of the host holds the stream back until all calls have returned."""
    problem, expected = Problem(SHAPE, **settings), Problem(SHAPE, **settings)
    layer = bn.SyncBatchNorm(SHAPE[1])
    release, waited = threading.Event(), []
    # Loads kernels, fills the pool, and makes what the stream keeps.
    for _ in range(2):
        everything(Problem(SHAPE, **settings), layer)
    stream.synchronize()
    stream.launch_host_func(lambda _: waited.append(release.wait(WAIT_SECONDS)), None)
    results = everything(problem, layer)
    was_idle = stream.done
    release.set()
    stream.synchronize()
    assert waited == [True], "a call waited for the device"
    assert not was_idle
    assert problem.bits(results) == expected.bits(expected.step(with_gaps)[0])


def everything(problem: Problem, layer: bn.SyncBatchNorm) -> tuple[Any, ...]:
    """Copies, both passes, and a step of a layer."""
    results, _ = problem.step(with_gaps)
    layer(problem.x)
    layer.backward(problem.dy)
    layer.eval()(problem.x)
    layer.train()
    return results


def with_gaps(array: Any) -> Any:
    return array[..., ::2]


def test_memory_comes_from_cupy_s_pool(stream: Any) -> None:
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        problem = Problem(SHAPE)
        problem.step()
        before = pool.used_bytes()
        y, saved = bn.forward(problem.x)
        assert pool.used_bytes() - before == rounded(y) + rounded(saved.statistics)
        dx, _, _ = bn.backward(problem.dy, saved)
        assert pool.used_bytes() - before == rounded(y) + rounded(saved.statistics) + rounded(dx)
        total = pool.total_bytes()
        del y, dx, saved
        assert pool.used_bytes() == before
        problem.step()
        assert pool.total_bytes() == total
        stream.synchronize()


def rounded(array: Any) -> int:
    """What the pool counts for it."""
    return -(-array.nbytes // 512) * 512


# ------------------------------------------------------------------------------------------ graphs


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("shape", "lying"),
    [(SHAPE, lambda array: array), (SHAPE, with_gaps), ((0, 6, 5, 5), lambda array: array)],
    ids=["dense", "with gaps", "empty"],
)
def test_replays_equal_eager_calls(
    stream: Any, shape: tuple[int, ...], lying: Any, momentum: float | None
) -> None:
    captured, eager, first = (Problem(shape, momentum=momentum) for _ in range(3))
    first.step(lying)  # loads kernels
    stream.begin_capture()
    results, saved = captured.step(lying)
    graph = stream.end_capture()
    for seed in range(5):
        captured.fill(seed)
        eager.fill(seed)
        expected = eager.bits(eager.step(lying)[0])
        # Others use whatever has been given back to the pool.
        others = [cupy.full(n, 7.0, "float32") for n in (64, 1024, captured.x.size)]
        graph.launch(stream)
        assert captured.bits(results) == expected
        assert all(bool((other == 7).all()) for other in others)
    del saved


def test_a_layer_adds_up_gradients_at_every_replay(stream: Any) -> None:
    problem = Problem(SHAPE)
    captured, eager = (bn.SyncBatchNorm(SHAPE[1]) for _ in range(2))

    def step(layer: bn.SyncBatchNorm) -> tuple[Any, Any, Any]:
        y, saved = layer.forward(problem.x)
        return y, layer.backward(problem.dy, saved), saved

    step(captured)  # with gradients to add to
    step(eager)
    stream.begin_capture()
    kept = step(captured)
    graph = stream.end_capture()
    for seed in range(5):
        problem.fill(seed)
        step(eager)
        others = [cupy.full(64, 7.0, "float32") for _ in range(8)]
        graph.launch(stream)
        for name in ("weight_grad", "bias_grad", "running_var", "num_batches_tracked"):
            assert bits(getattr(captured, name)) == bits(getattr(eager, name)), name
        assert all(bool((other == 7).all()) for other in others)
    assert len(kept) == 3


def test_a_graph_with_a_pool_of_its_own_keeps_what_it_needs(stream: Any) -> None:
    """Which is how inference, and programs around it, are captured."""
    problem, pool = Problem(SHAPE), cupy.cuda.MemoryPool()
    arguments = (problem.weight, problem.bias, problem.running_mean, problem.running_var)
    bn.infer(with_gaps(problem.x), *arguments)  # loads kernels
    with cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        y = bn.infer(with_gaps(problem.x), *arguments)
        graph = stream.end_capture()
    for seed in range(3):
        problem.fill(seed)
        graph.launch(stream)
        assert bits(y) == bits(bn.infer(with_gaps(problem.x), *arguments))


# ----------------------------------------------------------------------------- threads, and desync


def test_threads_may_share_the_device(stream: Any) -> None:
    """Each on a stream of its own."""
    expected = [p.bits(p.step()[0]) for p in (Problem(SHAPE, seed) for seed in range(4))]
    stream.synchronize()

    def again_and_again(seed: int) -> bool:
        with cupy.cuda.Stream(non_blocking=True):
            problems = (Problem(SHAPE, seed) for _ in range(10))
            return all(p.bits(p.step()[0]) == expected[seed] for p in problems)

    assert each(range(4), again_and_again) == [True] * 4


def test_ranks_in_different_calls_are_told_at_a_later_call() -> None:
    """Two ranks by hand, of which one adds eps and the other takes the larger."""
    x = random(SHAPE)
    wires = [bn.moments(x, eps_mode=mode)[0] for mode in ("add", "max")]
    y, _ = bn.normalize(x, wires[0], wires[0] + wires[1], 2, eps_mode="add")
    assert bool(cupy.isnan(y).all())  # waits for the device
    with pytest.raises(syncnorm.DesyncError, match="some calls ago on CUDA device 0"):
        bn.forward(x)
    y, _ = bn.forward(x)
    assert not bool(cupy.isnan(y).any())
