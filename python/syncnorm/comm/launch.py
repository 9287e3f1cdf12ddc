"""What the launcher of a job tells its processes, in their environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from syncnorm import _core

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Rank and size, as mpirun sets them: Open MPI; MPICH, Intel MPI and others with PMI; MVAPICH; PMIx
# under srun, which sets the other one.
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


@dataclass(frozen=True)
class Launch:
    """A process's place in its job. size: None where the launcher does not say."""

    launcher: str  # "torchrun" or "mpirun"
    rank: int
    size: int | None
    source: str  # "RANK=0, WORLD_SIZE=2"

    def agrees_with(self, other: Launch) -> bool:
        return self.rank == other.rank and len({self.size, other.size} - {None}) <= 1


def launches(environment: Mapping[str, str]) -> list[Launch]:
    """What started this process: nothing known, one launcher, or two that agree.

    Raises InvalidArgumentError for variables that contradict each other, are not all there, are no
    numbers, or tell of a job whose processes cannot find each other.
    """
    found = [
        launch for launch in (_mpirun(environment), _torchrun(environment)) if launch is not None
    ]
    if len(found) == 2 and not found[0].agrees_with(found[1]):
        raise _core.InvalidArgumentError(
            f"environment: {found[0].source} and {found[1].source} contradict each other, expected"
            " the variables of one launcher: unset the others, or use from_mpi or"
            " syncnorm.torch.host_communicator in place of from_env"
        )
    if not found and _number_of(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        raise _core.InvalidArgumentError(
            "environment: srun has started SLURM_STEP_NUM_TASKS="
            f"{environment['SLURM_STEP_NUM_TASKS']} processes without MPI, expected PMI_RANK,"
            " PMIX_RANK or the variables of torchrun: use `srun --mpi=pmix`, or `--mpi=pmi2`"
        )
    return found


def local_rank() -> int:
    """This process's number among those of its job on this machine: 0 where it is alone.

    To choose a CUDA device by. It is what torchrun, mpirun (Open MPI, MPICH, Intel MPI, MVAPICH,
    PALS) or srun have put into the environment. Raises InvalidArgumentError where a job has more
    processes and none of the variables is set, and otherwise as from_env.
    """
    for name in _LOCAL_RANK:
        if name in os.environ:
            return _number_of(os.environ, name)
    for launch in launches(os.environ):
        if launch.size != 1:
            raise _core.InvalidArgumentError(
                f"environment: {launch.source}, but no local rank; expected one of"
                f" {', '.join(_LOCAL_RANK)}"
            )
    return 0


def _mpirun(environment: Mapping[str, str]) -> Launch | None:
    for rank, size in _MPIRUN:
        if rank in environment:
            return _launch("mpirun", environment, rank, size)
    return None


def _torchrun(environment: Mapping[str, str]) -> Launch | None:
    if "RANK" not in environment:
        return None
    absent = [name for name in _TORCHRUN if name not in environment]
    if absent:
        raise _core.InvalidArgumentError(
            f"environment: RANK={environment['RANK']} without {', '.join(absent)}, expected all of"
            f" {', '.join(_TORCHRUN)}, as torchrun sets them, or no RANK"
        )
    return _launch("torchrun", environment, *_TORCHRUN[:2])


def _launch(launcher: str, environment: Mapping[str, str], rank: str, size: str) -> Launch:
    source = ", ".join(
        f"{name}={environment[name]}" for name in (rank, size) if name in environment
    )
    number = _number_of(environment, rank)
    count = _number_of(environment, size) if size in environment else None
    if count is not None and number >= count:
        raise _core.InvalidArgumentError(f"environment: got {source}, expected a rank below that")
    return Launch(launcher, number, count, source)


def _number_of(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in environment:
        return default
    text = environment[name]
    if not text.isdecimal():
        raise _core.InvalidArgumentError(f"environment: got {name}={text!r}, expected a number")
    return int(text)
