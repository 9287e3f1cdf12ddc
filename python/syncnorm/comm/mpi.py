"""Communicators between the ranks of an mpi4py communicator."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from syncnorm import _core
from syncnorm._core import Communicator

from .host import from_callback
from .nccl import NcclOptions, nccl_from_mpi

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
    """This process's rank of a new group with the ranks of an mpi4py communicator.

    Collective over mpi_comm. device: None for a communicator that sums arrays of the CPU by
    MPI_Iallreduce; a number for one over NCCL on that CUDA device, whose id travels over MPI, and
    which `options` are for. Every rank gets the same bits wherever MPI_Allreduce gives them, as it
    does in Open MPI and MPICH.

    Our calls do not mix with yours: they are made on a duplicate of mpi_comm, which is kept as an
    attribute of it, used again when the communicator is closed, and freed when you free mpi_comm.

    timeout: seconds that a rank waits in a call for the others, over NCCL the sum_timeout; None:
    without end. A rank that waits longer gets CommunicatorTimeoutError. A rank that fails, or is
    aborted, says so in its next call's place, so that the other ranks get InternalError in theirs.
    Ranks in different calls get DesyncError. Errors of MPI come out as mpi4py's MPI.Exception.

    Raises TypeError for what is no mpi4py communicator, InvalidArgumentError for one between groups
    or without MPI, for timeout <= 0 and for options without a device; over NCCL otherwise as
    from_nccl_id.
    """
    _check_communicator(mpi_comm)
    if timeout is not None and not timeout > 0:
        raise _core.InvalidArgumentError(
            f"timeout: got {timeout}, expected seconds > 0, or None for no deadline"
        )
    from .mpi_link import MpiLink

    if device is None:
        refuse_nccl_options(options)
        link = MpiLink.over(mpi_comm, timeout)
        return from_callback(link.rank, link.size, link.sum, link.split, link.abort)
    link = MpiLink.over(mpi_comm, options.get("init_timeout", 300.0))
    options.setdefault("sum_timeout", timeout)
    return nccl_from_mpi(link, device, **options)


def refuse_nccl_options(options: NcclOptions) -> None:
    """Raise InvalidArgumentError if there are any: no NCCL is asked for."""
    for name in options:
        raise _core.InvalidArgumentError(
            f"{name}: is an option of NCCL, expected a CUDA device with it: device=0, for example"
        )


def _check_communicator(mpi_comm: MPI.Intracomm) -> None:
    mpi = sys.modules.get("mpi4py.MPI")  # to import it would initialize MPI
    if mpi is None or not isinstance(mpi_comm, mpi.Comm):
        raise TypeError(
            f"mpi_comm: got {type(mpi_comm).__name__}, expected an mpi4py.MPI.Intracomm, such as"
            " MPI.COMM_WORLD"
        )
    if mpi.Is_finalized() or not mpi.Is_initialized():
        state = "was finalized" if mpi.Is_finalized() else "is not initialized"
        raise _core.InvalidArgumentError(
            f"mpi_comm: MPI {state}, expected a call between MPI.Init() and MPI.Finalize()"
        )
    if not mpi_comm or mpi_comm.Is_inter():
        got = "one between two groups" if mpi_comm else "MPI.COMM_NULL"
        raise _core.InvalidArgumentError(
            f"mpi_comm: got {got}, expected a communicator within one group (an Intracomm)"
        )
