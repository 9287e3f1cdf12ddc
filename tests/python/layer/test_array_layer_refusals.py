"""Refused arguments leave a layer, its gradients and the group as they were."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from syncnorm import InvalidArgumentError
from syncnorm.comm import thread_group
from syncnorm.numpy import SyncBatchNorm, backward, forward

C = 4


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


Change = Callable[[Any], Any]
OF_ALL: dict[str, Change] = {
    "object": lambda good: good.astype(object),
    "complex": lambda good: good.astype(np.complex64),
    "text": lambda good: good.astype(str),
    "bytes": lambda good: good.tobytes(),
    "memoryview": memoryview,
    "str": lambda _: "array",
    "0-D": lambda _: np.float32(1),
    "longer": lambda good: np.concatenate([good, good]),
}
WRITTEN: dict[str, Change] = {
    **OF_ALL,
    "read-only": read_only,
    "strided": lambda g: g.repeat(2)[::2],
}
GRADIENTS = {name: WRITTEN[name] for name in WRITTEN if name != "strided"} | {
    "integers": lambda good: good.astype(np.int64)
}
FORWARD: dict[str, dict[str, Change]] = {
    "x": {**OF_ALL, "None": lambda _: None},
    "weight": OF_ALL,
    "bias": OF_ALL,
    "running_mean": WRITTEN,
    "running_var": WRITTEN,
    "residual": OF_ALL,
    "num_batches_tracked": {"float": lambda _: np.zeros(()), "read-only": read_only},
    "training": {"str": lambda _: "no"},
}
STATE = ("running_mean", "running_var", "num_batches_tracked")
CASES = [(name, kind) for name, kinds in FORWARD.items() for kind in kinds]
BACKWARD = [
    (name, kind)
    for name in ("dy", "weight_grad", "bias_grad")
    for kind in GRADIENTS
    if (name, kind) != ("dy", "read-only")
]


def arguments(rank: int) -> dict[str, Any]:
    random = np.random.default_rng(rank)
    return {
        "x": random.standard_normal((5, C), np.float32),
        "weight": np.linspace(1, 2, C, dtype=np.float32),
        "bias": np.zeros(C, np.float32),
        "running_mean": np.zeros(C, np.float32),
        "running_var": np.ones(C, np.float32),
        "residual": random.standard_normal((5, C), np.float32),
        "num_batches_tracked": np.zeros((), np.int64),
        "training": True,
    }


def ranks(body: Callable[[int, Any], list[str]]) -> None:
    comms = thread_group(2, timeout=20.0)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(body, rank, comm) for rank, comm in enumerate(comms)]
        for future in futures:
            assert not future.result(), "\n".join(future.result())


def refusal(call: Callable[[], Any], what: str, wrong: list[str]) -> None:
    try:
        call()
        wrong.append(f"{what}: accepted")
    except InvalidArgumentError:
        pass
    except Exception as error:  # noqa: BLE001 - reported to the test, whatever it is
        wrong.append(f"{what}: {type(error).__name__}: {error}")


def test_forward_on_one_rank_of_two() -> None:
    def body(rank: int, comm: Any) -> list[str]:
        expected, given, wrong = arguments(rank), arguments(rank), []
        for name, kind in CASES:
            y = forward(**expected, comm=comm)[0]
            if rank == 1:
                changed = {**given, name: FORWARD[name][kind](given[name])}
                refusal(
                    lambda changed=changed: forward(**changed, comm=comm), f"{name} {kind}", wrong
                )
            if not np.array_equal(forward(**given, comm=comm)[0], y):
                wrong.append(f"{name} {kind}: the next step differs")
            if not all(np.array_equal(given[each], expected[each]) for each in STATE):
                wrong.append(f"{name} {kind}: something was written")
        return wrong

    ranks(body)


def backward_refused(layer: SyncBatchNorm, dy: np.ndarray, name: str, kind: str) -> list[str]:
    """Return what is wrong after a refused backward pass, whose changed argument is put back."""
    wrong: list[str] = []
    gradients = layer.weight_grad, layer.bias_grad
    values = [gradient.copy() for gradient in gradients]

    def call() -> None:
        if name == "dy":
            layer.backward(GRADIENTS[kind](dy))
        setattr(layer, name, GRADIENTS[kind](getattr(layer, name)))
        layer.backward(dy)

    refusal(call, f"{name} {kind}", wrong)
    if layer.outstanding != 1:
        wrong.append(f"{name} {kind}: the forward pass is gone")
    layer.weight_grad, layer.bias_grad = gradients
    if not all(map(np.array_equal, gradients, values)):
        wrong.append(f"{name} {kind}: a gradient was changed")
    return wrong


def test_backward_on_one_rank_of_two() -> None:
    def body(rank: int, comm: Any) -> list[str]:
        given, wrong = arguments(rank), []
        for name, kind in BACKWARD:
            layer = SyncBatchNorm(C, comm=comm)
            layer(given["x"])
            y = layer(given["x"])
            dx = layer.backward(y * y)
            once = layer.weight_grad.copy(), layer.bias_grad.copy()
            if rank == 1:
                wrong += backward_refused(layer, y * y, name, kind)
            found = layer.backward(y * y), layer.weight_grad, layer.bias_grad
            if not all(map(np.array_equal, found, (dx, 2 * once[0], 2 * once[1]))):
                wrong.append(f"{name} {kind}: the next step differs")
        return wrong

    ranks(body)


def test_resized_between_forward_and_backward() -> None:
    """NumPy frees the memory of x although a view of it is held."""
    x = np.ones((4096, 256, C), np.float32)
    _, saved = forward(x, axis=2)
    dy = np.ones_like(x)
    x.resize((1, 1, C), refcheck=False)
    with pytest.raises(InvalidArgumentError, match=r"moved or freed|elements inside the buffer"):
        backward(dy, saved)


def test_mode_of_a_layer() -> None:
    with pytest.raises(InvalidArgumentError, match="mode: got 'no'"):
        SyncBatchNorm(C).train("no")
