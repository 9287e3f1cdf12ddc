"""Check the numbers of one training step over every backend and device that was found."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .processes import run_processes
from .reference import error, expected, shard
from .worker import WorkerTask

TIMEOUT = 120.0  # seconds of one check
# Its package has imported the module already, of which runpy warns.
_WORKER = (sys.executable, "-W", "ignore::RuntimeWarning:runpy", "-m", "syncnorm.info.worker")
_TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
# Open MPI's variables: more ranks than cores, also as root. Other mpiruns ignore them.
_MPI_VARIABLES = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


@dataclass(frozen=True)
class Check:
    """One backend with its devices, and how to run it.

    Attributes:
        backend: Name for the report.
        devices: One per rank.
        kind: Kind of the WorkerTask.
        launch: "ranks" (a process for each), "one" (process with all ranks) or "mpirun".
        problem: Why the check cannot run.
    """

    backend: str
    devices: tuple[str, ...]
    kind: str
    launch: str = "one"
    problem: str | None = None


def run_checks(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run all checks.

    Args:
        found: The facts of report.collect().

    Returns:
        For each check backend, devices, status ("passed", "failed" or "skipped"), error (the
        largest, relative to float64; None if there are no numbers) and problem (a text or None).
    """
    return [_run(check) for check in plan(found)]


def plan(found: Mapping[str, Any]) -> Iterator[Check]:
    """Yield the checks of a machine with these facts."""
    yield _with("numpy", found, Check("threads", ("cpu", "cpu"), "threads"))
    yield _with_mpi(found, _with("numpy", found, Check("mpi4py", ("cpu", "cpu"), "mpi4py")))
    jax = _with("numpy", found, Check("jax", ("cpu", "cpu"), "jax"))
    yield _with("jax", found, jax)
    for backend in ("gloo", "mpi", "ucc"):
        yield _with_torch(found, Check(backend, ("cpu", "cpu"), "torch", "ranks"))
    yield from _plan_cuda(found)


def _plan_cuda(found: Mapping[str, Any]) -> Iterator[Check]:
    core = found["syncnorm"]
    count = core["cuda_devices"] if core["cuda_built"] else 0
    devices = tuple(f"cuda:{index}" for index in range(count))
    torch_devices = devices[: len(found["torch"].get("devices", ()))]
    missing = None
    if not devices:
        missing = core["cuda_problem"] if core["cuda_built"] else "this build has no CUDA backend"
    for device in torch_devices:
        yield _with_torch(found, Check("gloo", (device, device), "torch", "ranks"))
    unseen = None if torch_devices else "torch sees no CUDA device"
    yield _with_torch(found, Check("nccl", torch_devices, "torch", "ranks", missing or unseen))
    no_nccl = "syncnorm has found no NCCL" if core["nccl"] is None else None
    yield _with("cupy", found, Check("nccl, cupy", devices, "cupy", problem=missing or no_nccl))


def _with(name: str, found: Mapping[str, Any], check: Check) -> Check:
    """Return the check, with a problem if this framework is missing."""
    problem = found[name]["problem"]
    if found[name]["version"] is None:
        problem = "not installed"
    if problem is None or check.problem is not None:
        return check
    return replace(check, problem=f"{name}: {problem}")


def _with_torch(found: Mapping[str, Any], check: Check) -> Check:
    check = _with("torch", found, check)
    if check.problem is None and not found["torch"]["backends"][check.backend]:
        check = replace(check, problem="not available in this build of torch.distributed")
    return _with_mpi(found, check) if check.backend == "mpi" else check


def _with_mpi(found: Mapping[str, Any], check: Check) -> Check:
    if check.backend == "mpi4py":
        check = _with("mpi4py", found, check)
    if check.problem is None and _mpirun() is None:
        check = replace(check, problem="mpirun is not installed")
    return replace(check, launch="mpirun")


def _mpirun() -> str | None:
    """Return the mpirun beside this Python, else that of PATH."""
    return shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")


def _run(check: Check) -> dict[str, Any]:
    outcome = {"backend": check.backend, "devices": list(check.devices)}
    if check.problem is not None:
        return {**outcome, "status": "skipped", "error": None, "problem": check.problem}
    size = len(check.devices)
    # Shards of a JAX array have one shape; elsewhere a rank counts as much as it holds.
    samples = [4] * size if check.kind == "jax" else [2 + 3 * (rank % 2) for rank in range(size)]
    with TemporaryDirectory(prefix="syncnorm-check-") as folder:
        problem = _launch(check, samples, folder)
        worst = None
        if problem is None:
            worst, problem = _compare(samples, Path(folder))
    status = "passed" if problem is None else "failed"
    return {**outcome, "status": status, "error": worst, "problem": problem}


def _launch(check: Check, samples: list[int], folder: str) -> str | None:
    """Run the processes of a check; return the problem of the first that failed."""
    one = WorkerTask(
        check.kind, check.backend, list(check.devices), samples, -1, folder, TIMEOUT / 2
    )
    ranks = range(len(samples)) if check.launch == "ranks" else [-1]
    commands = [[*_WORKER, json.dumps(asdict(replace(one, rank=rank)))] for rank in ranks]
    variables = {}
    if check.launch == "mpirun":
        commands = [[_mpirun() or "mpirun", "-n", str(len(samples)), *commands[0]]]
        variables = _MPI_VARIABLES
    if check.backend == "gloo" and sys.platform.startswith("linux"):
        variables = {"GLOO_SOCKET_IFNAME": "lo"}  # the host name may not resolve
    if check.kind == "jax":
        devices = str(len(samples))
        variables = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": devices, "JAX_ENABLE_X64": "1"}
    ended = run_processes(commands, TIMEOUT, OMP_NUM_THREADS="1", **variables)
    problems = [
        each.problem if len(ended) == 1 else f"rank {rank}: {each.problem}"
        for rank, each in enumerate(ended)
        if each.problem is not None
    ]
    return problems[0] if problems else None


def _compare(samples: list[int], folder: Path) -> tuple[float, str | None]:
    """Return the largest error of all ranks and dtypes, and a text if it is too large."""
    worst, problem = 0.0, None
    wanted = expected([shard(rank, count) for rank, count in enumerate(samples)])
    for rank, each in enumerate(wanted):
        got = json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8"))
        for dtype, tolerance in _TOLERANCES.items():
            found = error(got[dtype], each)
            worst = max(worst, found)
            if problem is None and not found <= tolerance:
                problem = f"rank {rank}, {dtype}: got an error of {found:.1e}, expected at most"
                problem += f" {tolerance:g}"
    return worst, problem
