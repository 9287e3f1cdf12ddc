"""Layers of the NumPy adapter notice that the ranks are in different layers or passes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import numpy as np
import pytest
from thread_layers import on_ranks

from support.scenarios import error_of
from syncnorm import Communicator, InvalidArgumentError
from syncnorm.comm import from_callback
from syncnorm.numpy import SyncBatchNorm, forward

Two = tuple[SyncBatchNorm, SyncBatchNorm]


def two_layers(comm: Communicator) -> Two:
    return SyncBatchNorm(3, comm=comm), SyncBatchNorm(3, comm=comm)


def batch(rank: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, rank]).normal(3, 2, (4, 3, 5))


def outcomes_of(work: Callable[[int, Two], None]) -> list[tuple[str, list[int]]]:
    """Return of each of two ranks its error, and the batches that its layers have counted."""

    def on_rank(rank: int, comm: Communicator) -> tuple[str, list[int]]:
        layers = two_layers(comm)
        error = error_of(lambda: work(rank, layers))
        for layer in layers:
            assert layer.running_mean.any() == (layer.num_batches_tracked.item() > 0)
        return error.partition(":")[0], [x.num_batches_tracked.item() for x in layers]

    return on_ranks(2, on_rank)


def test_layers_that_swap_places() -> None:
    def work(rank: int, layers: Two) -> None:
        for layer in layers if rank == 0 else reversed(layers):
            layer(batch(rank))

    assert outcomes_of(work) == [("DesyncError", [0, 0])] * 2


def test_a_layer_that_one_rank_skips() -> None:
    def work(rank: int, layers: Two) -> None:
        first, second = layers
        if rank == 0:
            first(batch(rank))
        second(batch(rank))

    assert outcomes_of(work) == [("DesyncError", [0, 0])] * 2


def test_backward_passes_in_another_order() -> None:
    """Two passes of one layer, and their saved objects in another order on each rank."""

    def work(rank: int, layers: Two) -> None:
        passes = [layers[0].forward(batch(rank, seed)) for seed in range(2)]
        for y, saved in passes if rank == 0 else reversed(passes):
            layers[0].backward(np.ones_like(y), saved)

    assert outcomes_of(work) == [("DesyncError", [2, 0])] * 2


def test_training_goes_on_after_a_disagreement() -> None:
    """A thread group stays usable, and its ranks count alike."""

    def on_rank(rank: int, comm: Communicator) -> np.ndarray:
        first, second = two_layers(comm)
        error = error_of(lambda: (first if rank == 0 else second)(batch(rank)))
        assert error.startswith("DesyncError"), error
        for layer in (first, second, first):
            layer.backward(np.ones_like(layer(batch(rank))))
        return first.running_mean

    one, other = on_ranks(2, on_rank)
    assert one.tobytes() == other.tobytes()


def hashes_of(
    comm_calls: Callable[[Communicator], None], in_sum: Callable[[], None]
) -> list[float]:
    """Return the hashes that a rank of two sends, whose other rank sends the same wires."""
    hashes = []

    def double(src: memoryview, dst: memoryview) -> None:
        in_sum()
        np.frombuffer(dst)[:] = 2 * np.frombuffer(src)
        hashes.append(src[2])

    comm_calls(from_callback(0, 2, double))
    return hashes


def test_a_refused_call_is_not_counted() -> None:
    """A second thread uses a handle that is in a call; an argument is refused."""
    x = batch(0).astype("float32")  # one sum a pass
    inside, refused = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert refused.wait(60)

    def with_refusals(comm: Communicator) -> None:
        thread = threading.Thread(target=lambda: forward(x, comm=comm))
        thread.start()
        assert inside.wait(60)
        with pytest.raises(InvalidArgumentError, match="in use by another thread"):
            forward(x, comm=comm)
        refused.set()
        thread.join()
        with pytest.raises(InvalidArgumentError, match="weight"):
            forward(x, np.ones(4), comm=comm)
        forward(x, comm=comm)

    def without(comm: Communicator) -> None:
        for _ in range(2):
            forward(x, comm=comm)

    hashes = hashes_of(with_refusals, wait)
    assert hashes == hashes_of(without, lambda: None)
    assert len(set(hashes)) == 2


def test_a_copy_is_the_same_layer() -> None:
    """An average of the model's weights, say; a layer of an unpickled model is numbered anew."""

    def on_rank(rank: int, comm: Communicator) -> None:
        layer = SyncBatchNorm(3, comm=comm)
        used = copy.deepcopy(layer) if rank == 0 else layer
        used(batch(rank))

    on_ranks(2, on_rank)
