"""Layers under a CUDA graph: a step replayed beside the same step called anew."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Sequence

import torch

from .cases import Case
from .clock import Call
from .layers import BATCH_NORM, LAYERS, TORCH_SYNC, LayerSubject, group_of_one
from .meter import Meter, meter_for

SHAPES = ((2, 8, 4, 4), (32, 2048, 7, 7), (32, 256, 14, 14), (32, 64, 56, 56))
CALLS = 50  # in a row
# torch's synchronized layer last: a capture that fails disturbs none that follows.
ORDER = sorted(LAYERS, key=lambda name: (name == TORCH_SYNC, name != BATCH_NORM))


@dataclasses.dataclass(frozen=True)
class GraphTime:
    """Seconds of forward and backward of a layer; error: why there is no replay."""

    case: str
    layer: str
    eager: float
    replay: float | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.case, self.layer


def measure_graphs(device: str, shapes: Sequence[tuple[int, ...]], rounds: int) -> list[GraphTime]:
    meter = meter_for(device)
    cases = [Case("graphs", shape, "float32", "channels_first") for shape in shapes]
    with group_of_one(device):
        return [
            _measured(case, name, device, rounds, meter)
            for name, case in itertools.product(ORDER, cases)
        ]


def _measured(case: Case, name: str, device: str, rounds: int, meter: Meter) -> GraphTime:
    step = LayerSubject(LAYERS[name], case, device).step
    eager = _median(meter, step, rounds)
    try:
        replay = captured(step, device)
        found = GraphTime(case.name, name, eager, _median(meter, replay, rounds))
    except RuntimeError as error:
        found = GraphTime(case.name, name, eager, error=str(error).partition("\n")[0])
    print(f"{case.name}, {name}: {_told(found)}", flush=True)
    return found


def _median(meter: Meter, call: Call, rounds: int) -> float:
    return statistics.median(meter.seconds(call, CALLS) for _ in range(rounds))


def _told(time: GraphTime) -> str:
    replay = f"replayed {1e6 * time.replay:.1f} us" if time.replay else f"no replay: {time.error}"
    return f"called {1e6 * time.eager:.1f} us, {replay}"


def captured(step: Call, device: str) -> Call:
    """The step as a graph; on the CPU the step itself."""
    if device != "cuda":
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as torch asks for, before a capture
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # thread_local: NCCL's watchdog of torch.distributed may ask for events meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        kept = step()

    def replay(_kept: object = kept) -> None:
        graph.replay()

    return replay
