"""Compute the results of one or more ranks of a check: python -m syncnorm.info.worker TASK.

TASK is a WorkerTask as JSON. Each rank writes its results to rank<r>.json in the task's folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from syncnorm import Communicator

from .reference import BIAS, CHANNELS, EPS, LENGTH, MOMENTUM, WEIGHT, Arrays, shard

DTYPES = ("float32", "float64")
_RESULTS = ("y", "dx", "dweight", "dbias", "running_mean", "running_var")


@dataclass(frozen=True)
class WorkerTask:
    """What a process of a check computes.

    Attributes:
        kind: "threads", "mpi4py", "cupy", "jax" or "torch".
        backend: The backend of torch.distributed, for "torch".
        devices: The device of each rank, "cpu" or "cuda:0".
        samples: N of each rank.
        rank: This process's rank; -1: the launcher's, or all ranks are in this process.
        folder: Receives the results, and holds the rendezvous file.
        timeout: Seconds that a collective may take.
    """

    kind: str
    backend: str
    devices: list[str]
    samples: list[int]
    rank: int
    folder: str
    timeout: float


def main(task: WorkerTask) -> None:
    """Compute the results of the task and write them."""
    _KINDS[task.kind](task)


def _write(task: WorkerTask, rank: int, results: dict[str, Arrays]) -> None:
    Path(task.folder, f"rank{rank}.json").write_text(json.dumps(results), encoding="utf-8")


def _step_of_arrays(bn: Any, comm: Communicator, rank: int, samples: int, dtype: str) -> Arrays:
    data = {
        name: bn.xp.asarray(values, dtype).reshape(samples, CHANNELS, LENGTH)
        for name, values in shard(rank, samples).items()
    }
    vectors = (WEIGHT, BIAS, [0.0] * CHANNELS, [1.0] * CHANNELS)
    weight, bias, mean, var = (bn.xp.asarray(values, dtype) for values in vectors)
    options = {"comm": comm, "eps": EPS, "momentum": MOMENTUM}
    y, saved = bn.forward(data["x"], weight, bias, mean, var, **options)
    dx, dweight, dbias = bn.backward(data["dy"], saved)
    made = zip(_RESULTS, (y, dx, dweight, dbias, mean, var), strict=True)
    return {name: bn.to_numpy(array).reshape(-1).tolist() for name, array in made}


def _in_threads(task: WorkerTask, bn: Any, comms: list[Communicator]) -> None:
    def run(rank: int) -> None:
        if task.devices[rank] != "cpu":
            bn.select_device(rank)
        results = {
            dtype: _step_of_arrays(bn, comms[rank], rank, task.samples[rank], dtype)
            for dtype in DTYPES
        }
        _write(task, rank, results)

    with ThreadPoolExecutor(len(comms)) as pool:
        list(pool.map(run, range(len(comms))))


def _threads(task: WorkerTask) -> None:
    from syncnorm import numpy as bn
    from syncnorm.comm import thread_group

    _in_threads(task, bn, thread_group(len(task.devices), task.timeout))


def _cupy(task: WorkerTask) -> None:
    from syncnorm import cupy as bn
    from syncnorm.comm import nccl_group

    seconds = task.timeout
    devices = range(len(task.devices))
    _in_threads(task, bn, nccl_group(devices, init_timeout=seconds, sum_timeout=seconds))


def _mpi4py(task: WorkerTask) -> None:
    from mpi4py import MPI

    from syncnorm import numpy as bn
    from syncnorm.comm import from_mpi

    comm = from_mpi(MPI.COMM_WORLD, timeout=task.timeout)
    samples = task.samples[comm.rank]
    results = {dtype: _step_of_arrays(bn, comm, comm.rank, samples, dtype) for dtype in DTYPES}
    _write(task, comm.rank, results)


def _torch(task: WorkerTask) -> None:
    import torch
    import torch.distributed as dist

    from syncnorm.torch import SyncBatchNorm

    size = len(task.devices)
    if task.backend == "mpi":
        dist.init_process_group("mpi")
    else:
        rendezvous = f"file://{Path(task.folder).resolve()}/rendezvous"
        timeout = timedelta(seconds=task.timeout)
        dist.init_process_group(
            task.backend, rendezvous, timeout=timeout, rank=task.rank, world_size=size
        )
    rank = dist.get_rank()
    device = torch.device(task.devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    results = {}
    for name in DTYPES:
        dtype = getattr(torch, name)
        layer = SyncBatchNorm(CHANNELS, EPS, MOMENTUM, device=device, dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(WEIGHT))
            layer.bias.copy_(torch.tensor(BIAS))
        x, dy = (
            torch.tensor(values, dtype=dtype, device=device).view(-1, CHANNELS, LENGTH)
            for values in shard(rank, task.samples[rank]).values()
        )
        y = layer(x.requires_grad_())
        y.backward(dy)
        grads = (x.grad, layer.weight.grad, layer.bias.grad)
        made = zip(_RESULTS, (y, *grads, layer.running_mean, layer.running_var), strict=True)
        results[name] = {name: tensor.flatten().tolist() for name, tensor in made}
    _write(task, rank, results)
    dist.barrier()
    dist.destroy_process_group()


def _jax(task: WorkerTask) -> None:
    import jax
    import numpy as np
    from jax.sharding import Mesh, PartitionSpec

    from syncnorm.jax import RunningStatistics, batch_norm

    size = len(task.devices)
    ranks: Any = PartitionSpec("ranks")  # type: ignore[no-untyped-call]
    mesh = Mesh(np.array(jax.devices()), ("ranks",))

    def step(given: Any) -> Any:
        x, dy, weight, bias, mean, var = jax.tree.map(lambda array: array[0], given)

        def layer(x: Any, weight: Any, bias: Any) -> Any:
            running = RunningStatistics(mean, var, None)
            options: Any = {"axis_name": "ranks", "axis": 1, "eps": EPS, "momentum": MOMENTUM}
            return batch_norm(x, weight, bias, running, **options)

        y, backward, running = jax.vjp(layer, x, weight, bias, has_aux=True)
        made = (y, *backward(dy), running.mean, running.var)
        return [array[None] for array in made]

    shards = [shard(rank, samples) for rank, samples in enumerate(task.samples)]
    results: list[dict[str, Arrays]] = [{} for _ in shards]
    for dtype in DTYPES:
        data = [[each[name] for each in shards] for name in ("x", "dy")]
        vectors = [[vector] * size for vector in (WEIGHT, BIAS, [0.0] * CHANNELS, [1.0] * CHANNELS)]
        shape = (size, -1, CHANNELS, LENGTH)
        given = [np.array(values, dtype).reshape(shape) for values in data]
        given += [np.array(values, dtype) for values in vectors]
        made = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=ranks, out_specs=ranks))(given)
        for rank, result in enumerate(results):
            flat = (np.asarray(array)[rank].reshape(-1).tolist() for array in made)
            result[dtype] = dict(zip(_RESULTS, flat, strict=True))
    for rank, result in enumerate(results):
        _write(task, rank, result)


_KINDS: dict[str, Callable[[WorkerTask], None]] = {
    "threads": _threads,
    "cupy": _cupy,
    "mpi4py": _mpi4py,
    "torch": _torch,
    "jax": _jax,
}


if __name__ == "__main__":
    main(WorkerTask(**json.loads(sys.argv[1])))
