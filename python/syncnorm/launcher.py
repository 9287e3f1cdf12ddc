"""Communicators for jobs started by mpirun, srun or torchrun."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from syncnorm import _core
from syncnorm._core import Communicator
from syncnorm.comm import NcclOptions, from_mpi, nccl_group, thread_group
from syncnorm.comm.nccl import require_device

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["from_env", "local_rank"]

_PACKAGES = {"mpirun": "mpi4py", "torchrun": "torch"}
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Rank and world size of: Open MPI; MPICH, Intel MPI and others with PMI; MVAPICH; srun with PMIx,
# which sets only the rank, so that the size is Slurm's.
_MPIRUN = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
)
_LOCAL_RANK = (
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "SLURM_LOCALID",
)


def from_env(
    device: int | None = None,
    *,
    timeout: float | None = 600.0,
    **options: Unpack[NcclOptions],
) -> Communicator:
    """Return this process's communicator for the job that mpirun, srun or torchrun started.

    Collective over the job. The environment determines the process group:

        launcher                   process group
        mpirun, srun with PMI      MPI.COMM_WORLD of mpi4py, as in syncnorm.comm.from_mpi
        torchrun                   the default group of torch.distributed, initialized with gloo if
                                   necessary, as in syncnorm.torch.host_communicator and
                                   syncnorm.torch.nccl_communicator
        both, in agreement         MPI.COMM_WORLD if mpi4py is installed, else as for torchrun
        none                       a group of one

    Args:
        device: CUDA device index for an NCCL communicator, usually local_rank(). None returns a
            communicator for CPU arrays.
        timeout: Seconds that a collective waits for the other ranks; the default of sum_timeout
            with NCCL. None waits without a deadline, or with gloo for torch's default timeout.
        **options: NcclOptions; they require a device.

    Returns:
        An open communicator. Its rank and size are those of the job.

    Raises:
        InvalidArgumentError: The variables of the launcher are incomplete or contradict each other
            or the process group.
        ImportError: mpi4py or torch is not installed.
        Error: As raised by syncnorm.comm.from_mpi.
    """
    if device is None:
        require_device(options)
    else:
        options.setdefault("sum_timeout", timeout)
    jobs = find_jobs(os.environ)
    if not jobs:
        return thread_group(1)[0] if device is None else nccl_group([device], **options)[0]
    job = next((job for job in jobs if find_spec(_PACKAGES[job.launcher])), None)
    if job is None:
        raise _missing_package(jobs[0])
    connect = _from_mpi if job.launcher == "mpirun" else _from_torch
    return connect(job, device, timeout, options)


def local_rank() -> int:
    """Return the rank of this process among the processes of its job on this machine.

    Use it as the CUDA device index. The value comes from the variables that torchrun, mpirun (Open
    MPI, MPICH, Intel MPI, MVAPICH, PALS) and srun set.

    Returns:
        The local rank, >= 0; 0 if no launcher started this process.

    Raises:
        InvalidArgumentError: The job has several processes and no variable holds the local rank, or
            the variables are incomplete or contradict each other.
    """
    for name in _LOCAL_RANK:
        if name in os.environ:
            return _number(os.environ, name)
    for job in find_jobs(os.environ):
        if job.world_size != 1:
            raise _core.InvalidArgumentError(
                f"environment: {job.source}, but no local rank; expected one of"
                f" {', '.join(_LOCAL_RANK)}"
            )
    return 0


@dataclass(frozen=True)
class Job:
    """Rank and world size, as set by one launcher. world_size is None if the launcher omits it."""

    launcher: str  # "mpirun" or "torchrun"
    rank: int
    world_size: int | None
    source: str  # the variables, for messages: "RANK=0, WORLD_SIZE=2"

    def agrees_with(self, other: Job) -> bool:
        sizes = {self.world_size, other.world_size} - {None}
        return self.rank == other.rank and len(sizes) <= 1


def _from_mpi(
    job: Job, device: int | None, timeout: float | None, options: NcclOptions
) -> Communicator:
    from mpi4py import MPI

    if job.world_size is not None and MPI.COMM_WORLD.size != job.world_size:
        raise _core.InvalidArgumentError(
            f"environment: {job.source}, but MPI.COMM_WORLD has {MPI.COMM_WORLD.size} ranks:"
            f" mpirun and mpi4py use different MPI libraries (mpi4py: {MPI.get_vendor()})"
        )
    return from_mpi(MPI.COMM_WORLD, device, timeout=timeout, **options)


def _from_torch(
    job: Job, device: int | None, timeout: float | None, options: NcclOptions
) -> Communicator:
    from syncnorm.torch.communicators import host_communicator, job_group, nccl_communicator

    group = job_group(timeout)
    if (group.rank(), group.size()) != (job.rank, job.world_size):
        raise _core.InvalidArgumentError(
            f"environment: {job.source}, but this is rank {group.rank()} of {group.size()} in"
            " the default group of torch.distributed, expected the group of the whole job: use"
            " syncnorm.torch.host_communicator or nccl_communicator"
        )
    if device is None:
        return host_communicator(group, timeout)
    return nccl_communicator(group, device, **options)


def _missing_package(job: Job) -> ImportError:
    package = _PACKAGES[job.launcher]
    return ImportError(
        f"environment: {job.source}, as set by {job.launcher}, requires {package}, which is not"
        f" installed: pip install {package}"
    )


def find_jobs(environment: Mapping[str, str]) -> list[Job]:
    """Return the jobs that the variables describe: none, one, or two that agree (mpirun first)."""
    jobs = [job for job in (_mpirun_job(environment), _torchrun_job(environment)) if job]
    if len(jobs) == 2 and not jobs[0].agrees_with(jobs[1]):
        raise _core.InvalidArgumentError(
            f"environment: {jobs[0].source} and {jobs[1].source} contradict each other, expected"
            " the variables of one launcher: unset the others, or use from_mpi or"
            " syncnorm.torch.host_communicator in place of from_env"
        )
    tasks = "SLURM_STEP_NUM_TASKS"
    # Otherwise each process would silently become a group of one.
    if not jobs and tasks in environment and _number(environment, tasks) > 1:
        raise _core.InvalidArgumentError(
            f"environment: srun started {tasks}={environment[tasks]} processes without MPI,"
            " expected PMI_RANK, PMIX_RANK or the variables of torchrun: use `srun --mpi=pmix` or"
            " `srun --mpi=pmi2`"
        )
    return jobs


def _mpirun_job(environment: Mapping[str, str]) -> Job | None:
    for rank, size in _MPIRUN:
        if rank in environment:
            return _read_job("mpirun", environment, rank, size)
    return None


def _torchrun_job(environment: Mapping[str, str]) -> Job | None:
    if "RANK" not in environment:
        return None
    missing = [name for name in _TORCHRUN if name not in environment]
    if missing:
        raise _core.InvalidArgumentError(
            f"environment: RANK={environment['RANK']} without {', '.join(missing)}, expected all of"
            f" {', '.join(_TORCHRUN)}, as torchrun sets them, or no RANK"
        )
    return _read_job("torchrun", environment, "RANK", "WORLD_SIZE")


def _read_job(launcher: str, environment: Mapping[str, str], rank: str, size: str) -> Job:
    source = ", ".join(
        f"{name}={environment[name]}" for name in (rank, size) if name in environment
    )
    job_rank = _number(environment, rank)
    world_size = _number(environment, size) if size in environment else None
    if world_size is not None and job_rank >= world_size:
        raise _core.InvalidArgumentError(
            f"environment: got {source}, expected a rank below the world size"
        )
    return Job(launcher, job_rank, world_size, source)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise _core.InvalidArgumentError(
            f"environment: got {name}={text!r}, expected a number >= 0"
        )
    return int(text)
