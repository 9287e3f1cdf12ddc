"""The communicator of the whole job, by what its launcher tells."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from syncnorm import _core
from syncnorm._core import Communicator

from .host import thread_group
from .launch import Launch, launches
from .mpi import from_mpi, refuse_nccl_options
from .nccl import NcclOptions, nccl_group

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PACKAGES = {"mpirun": "mpi4py", "torchrun": "torch"}


def from_env(
    device: int | None = None,
    *,
    timeout: float | None = 600.0,
    **options: Unpack[NcclOptions],
) -> Communicator:
    """This process's communicator of the whole job that mpirun, srun or torchrun has started.

    Collective over the job. device: None for a communicator that sums arrays of the CPU, a number
    for one over NCCL on that CUDA device (see local_rank), which `options` are for.

        started by                 the ranks are joined by
        mpirun, srun with PMI      mpi4py, as from_mpi(MPI.COMM_WORLD) does
        torchrun                   torch.distributed: its default group, which is initialized over
                                   gloo where it is not yet; else as
                                   syncnorm.torch.host_communicator and nccl_communicator do
        both, and they agree       mpi4py where it is installed
        none of them               a group of one

    timeout: seconds that a rank waits in a call for the others, over NCCL the sum_timeout; None:
    without end, over gloo for torch's own time.

    Raises InvalidArgumentError for variables that contradict each other or the group that is found
    by them, ImportError where mpi4py or torch is missing, and otherwise as from_mpi.
    """
    if device is None:
        refuse_nccl_options(options)
    else:
        options.setdefault("sum_timeout", timeout)
    found = launches(os.environ)
    if not found:
        return thread_group(1)[0] if device is None else nccl_group([device], **options)[0]
    launch = next((one for one in found if find_spec(_PACKAGES[one.launcher])), None)
    if launch is None:
        raise _missing(found[0])
    join = _over_mpi if launch.launcher == "mpirun" else _over_torch
    return join(launch, device, timeout, options)


def _over_mpi(
    launch: Launch, device: int | None, timeout: float | None, options: NcclOptions
) -> Communicator:
    from mpi4py import MPI

    if launch.size is not None and MPI.COMM_WORLD.size != launch.size:
        raise _core.InvalidArgumentError(
            f"environment: {launch.source}, but MPI.COMM_WORLD has {MPI.COMM_WORLD.size} ranks:"
            f" this mpirun is not of the MPI that mpi4py uses, {MPI.get_vendor()}"
        )
    return from_mpi(MPI.COMM_WORLD, device, timeout=timeout, **options)


def _over_torch(
    launch: Launch, device: int | None, timeout: float | None, options: NcclOptions
) -> Communicator:
    from syncnorm.torch.host import host_communicator, job_group
    from syncnorm.torch.nccl import nccl_communicator

    group = job_group(timeout)
    if (group.rank(), group.size()) != (launch.rank, launch.size):
        raise _core.InvalidArgumentError(
            f"environment: {launch.source}, but this is rank {group.rank()} of {group.size()} in"
            " the default group of torch.distributed, expected the group of the whole job: use"
            " syncnorm.torch.host_communicator or nccl_communicator"
        )
    if device is None:
        return host_communicator(group, timeout)
    return nccl_communicator(group, device, **options)


def _missing(launch: Launch) -> ImportError:
    package = _PACKAGES[launch.launcher]
    return ImportError(
        f"environment: {launch.source}, as {launch.launcher} sets it, and {package} is not"
        f" installed, which finds the other ranks: pip install {package}"
    )
