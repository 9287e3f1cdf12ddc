"""Communicators for the ranks of an mpi4py communicator."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from syncnorm import _core
from syncnorm._core import Communicator

from .host import from_callback
from .nccl import NcclOptions, nccl_from_mpi, require_device

if TYPE_CHECKING:
    from mpi4py import MPI
    from typing_extensions import Unpack


def from_mpi(
    mpi_comm: MPI.Intracomm,
    device: int | None = None,
    *,
    timeout: float | None = 600.0,
    **options: Unpack[NcclOptions],
) -> Communicator:
    """Create a communicator with the ranks of an mpi4py communicator. Collective over mpi_comm.

    The communicator uses a duplicate of mpi_comm, so that its messages do not mix with those of the
    application. mpi_comm stores the duplicate as an attribute. The next from_mpi reuses it when the
    communicator is closed, and mpi_comm.Free() frees it.

    On the CPU the sum is MPI_Iallreduce. Every rank gets the same bits if MPI_Allreduce guarantees
    that, as it does in Open MPI and MPICH.

    Args:
        mpi_comm: An intracommunicator, such as MPI.COMM_WORLD.
        device: CUDA device index for an NCCL communicator; MPI only broadcasts the NCCL id. None
            returns a communicator for CPU arrays.
        timeout: Seconds that a call waits for the other ranks, > 0; the default of sum_timeout with
            NCCL. None waits without a deadline.
        **options: NcclOptions; they require a device.

    Returns:
        A communicator with the rank and size of mpi_comm. Its calls raise CommunicatorTimeoutError
        at the deadline, DesyncError if the ranks are in different calls, RankLostError if another
        rank failed or aborted, and mpi4py.MPI.Exception for errors of MPI.

    Raises:
        ArgumentTypeError: mpi_comm is not an mpi4py communicator.
        InvalidArgumentError: mpi_comm is an intercommunicator or MPI.COMM_NULL, MPI is not
            initialized or is finalized, timeout is not positive, or options lack a device.
        CommunicatorTimeoutError: Not all ranks made the call before the deadline.
        Error: As raised by from_nccl_id.
    """
    _check_communicator(mpi_comm)
    if timeout is not None and not timeout > 0:
        raise _core.InvalidArgumentError(
            f"timeout: got {timeout}, expected seconds > 0, or None for no deadline"
        )
    from .mpi_collectives import MpiCollectives

    if device is None:
        require_device(options)
        mpi = MpiCollectives.create(mpi_comm, timeout)
        return from_callback(mpi.rank, mpi.size, mpi.sum, mpi.split, mpi.abort)
    mpi = MpiCollectives.create(mpi_comm, options.get("init_timeout", 300.0))
    options.setdefault("sum_timeout", timeout)
    return nccl_from_mpi(mpi, device, **options)


def _check_communicator(mpi_comm: MPI.Intracomm) -> None:
    mpi = sys.modules.get("mpi4py.MPI")  # importing it would initialize MPI
    if mpi is None or not isinstance(mpi_comm, mpi.Comm):
        raise _core.ArgumentTypeError(
            f"mpi_comm: got {type(mpi_comm).__name__}, expected an mpi4py.MPI.Intracomm, such as"
            " MPI.COMM_WORLD"
        )
    if mpi.Is_finalized() or not mpi.Is_initialized():
        state = "was finalized" if mpi.Is_finalized() else "is not initialized"
        raise _core.InvalidArgumentError(
            f"mpi_comm: MPI {state}, expected a call between MPI.Init() and MPI.Finalize()"
        )
    if not mpi_comm or mpi_comm.Is_inter():
        got = "an intercommunicator" if mpi_comm else "MPI.COMM_NULL"
        raise _core.InvalidArgumentError(
            f"mpi_comm: got {got}, expected an intracommunicator, such as MPI.COMM_WORLD"
        )
