"""NCCL communicators: each rank has one CUDA device and sums in its memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from syncnorm import _core
from syncnorm._capabilities import capabilities
from syncnorm._core import Communicator
from syncnorm._facts import class_name

from .nccl_id import broadcast_new_id

if TYPE_CHECKING:
    from typing_extensions import Unpack


class NcclOptions(TypedDict, total=False):
    """Keyword arguments of the functions that create an NCCL communicator.

    Attributes:
        init_timeout: Seconds to wait for all ranks when the group is created or split. Default 300.
        sum_timeout: Seconds without progress after which the watchdog aborts the communicator,
            counted from when a sum is enqueued. None disables the watchdog. Default 600.
        max_ctas: Maximum number of thread blocks that NCCL uses for a sum. None, the default, lets
            NCCL choose.
    """

    init_timeout: float
    sum_timeout: float | None
    max_ctas: int | None


def require_device(options: NcclOptions) -> None:
    """Raise InvalidArgumentError for options that were passed without a CUDA device."""
    for name in options:
        raise _core.InvalidArgumentError(
            f"{name}: got an NCCL option without a device, expected a CUDA device index with it,"
            " such as device=0"
        )


def nccl_unique_id() -> bytes:
    """Create the id of a new NCCL group.

    One rank creates the id, and the application sends it to the others. That rank must stay alive
    until the group exists. An id serves for one group. nccl_from_mpi, nccl_from_store and
    syncnorm.torch.nccl_communicator create and send an id themselves.

    Returns:
        128 bytes.

    Raises:
        UnsupportedError: NCCL was not found or is too old, or this build has no CUDA backend.
        NcclError: NCCL reported an error.
    """
    return _core.nccl_unique_id()


def from_nccl_id(
    id: bytes | None, rank: int, size: int, device: int, **options: Unpack[NcclOptions]
) -> Communicator:
    """Create the communicator of one rank of a new NCCL group. Every rank makes the call.

    Args:
        id: The id from nccl_unique_id(), the same on all ranks. None: the environment variable
            NCCL_COMM_ID holds the address ("host:port") on which rank 0 listens.
        rank: Rank of this communicator, 0 <= rank < size.
        size: Number of ranks in the group.
        device: CUDA device index of this rank.
        **options: NcclOptions.

    Returns:
        A communicator of kind "nccl".

    Raises:
        ArgumentTypeError: id is not bytes.
        InvalidArgumentError: An argument is out of range.
        CommunicatorTimeoutError: Not all ranks made the call within init_timeout.
        NcclError: NCCL reported an error, for example for two ranks on one device.
        CudaError: The device does not exist, or no device is usable; the message says why.
        UnsupportedError: NCCL was not found or is too old, or this build has no CUDA backend.
    """
    if id is not None and not isinstance(id, bytes):
        raise _core.ArgumentTypeError(
            f"id: got {class_name(id)}, expected the bytes from nccl_unique_id(), or None"
        )
    return _core.nccl_communicator(id, rank, size, device, **options)


def nccl_group(
    devices: Sequence[int] | None = None, **options: Unpack[NcclOptions]
) -> list[Communicator]:
    """Create an NCCL group with all ranks in this process.

    Each thread uses one communicator.

    Args:
        devices: CUDA device index of each rank. None uses all devices of this machine.
        **options: NcclOptions.

    Returns:
        One communicator per device; item i is rank i, on devices[i].

    Raises:
        InvalidArgumentError: devices is empty or contains a device twice.
        Error: As raised by from_nccl_id.
    """
    if devices is None:
        # Without a usable device the core reports the reason for device 0.
        devices = range(max(1, _core.capabilities()["cuda_devices"]))
    return _core.nccl_group(devices, **options)


class CupyCommunicator(Protocol):
    """The part of cupy.cuda.nccl.NcclCommunicator that borrow_nccl uses."""

    @property
    def comm(self) -> int: ...


class Nccl4pyCommunicator(Protocol):
    """The part of nccl.core.Communicator (nccl4py) that borrow_nccl uses."""

    @property
    def ptr(self) -> int: ...


def borrow_nccl(
    nccl_comm: int | CupyCommunicator | Nccl4pyCommunicator, **options: Unpack[NcclOptions]
) -> Communicator:
    """Create a communicator that uses an existing ncclComm_t.

    The caller keeps the ownership: syncnorm neither aborts nor destroys the ncclComm_t, and the
    watchdog does not monitor it. Do not use, abort or destroy it during a call of the communicator.
    Its ranks are not connected here: if it is new, do not capture its first sum in a CUDA graph.

    The ncclComm_t must belong to the copy of NCCL that capabilities() names. CuPy and nccl4py use
    the copy that the process has loaded, as syncnorm does. If the process has loaded several
    copies, only an address is accepted, because an object does not show which copy made it.

    Args:
        nccl_comm: CuPy's NcclCommunicator, nccl4py's Communicator, or the address of an ncclComm_t.
            The communicator keeps an object alive. An address must stay valid until the
            communicator is closed.
        **options: NcclOptions for communicators that are split from this one.

    Returns:
        A communicator of kind "nccl" with the rank, size and device of the ncclComm_t.

    Raises:
        ArgumentTypeError: nccl_comm is of another type.
        InvalidArgumentError: The object was destroyed, or the process has several copies of NCCL.
        Error: As raised by from_nccl_id.
    """
    if isinstance(nccl_comm, int):
        return _core.borrow_nccl(nccl_comm, **options)
    pointer = getattr(nccl_comm, "comm", getattr(nccl_comm, "ptr", None))
    if not isinstance(pointer, int):
        raise _core.ArgumentTypeError(
            f"nccl_comm: got {class_name(nccl_comm)}, expected a cupy.cuda.nccl.NcclCommunicator,"
            " an nccl.core.Communicator of nccl4py, or the address of an ncclComm_t"
        )
    if pointer == 0:
        raise _core.InvalidArgumentError(
            f"nccl_comm: this {class_name(nccl_comm)} was destroyed or never initialized, expected"
            " a communicator in use"
        )
    _require_one_nccl(nccl_comm)
    return _core.borrow_nccl(pointer, nccl_comm, **options)


def _require_one_nccl(nccl_comm: object) -> None:
    found = capabilities()
    if found["other_nccl"]:
        raise _core.InvalidArgumentError(
            f"nccl_comm: got a {class_name(nccl_comm)} in a process with several copies of NCCL,"
            f" expected one made by the copy that syncnorm uses, {found['nccl']}; also loaded:"
            f" {', '.join(found['other_nccl'])}. Load one copy only (SYNCNORM_NCCL_LIBRARY selects"
            " syncnorm's), or pass the address of the ncclComm_t to skip this check"
        )


class MpiCommunicator(Protocol):
    """The part of mpi4py.MPI.Comm that nccl_from_mpi uses."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def bcast(self, obj: Any, root: int = 0) -> Any: ...


def nccl_from_mpi(
    mpi_comm: MpiCommunicator, device: int, **options: Unpack[NcclOptions]
) -> Communicator:
    """Create a communicator of a new NCCL group with the ranks of an mpi4py communicator.

    Collective over mpi_comm, which only broadcasts the NCCL id. from_mpi(mpi_comm, device) does the
    same with a deadline for the broadcast.

    Args:
        mpi_comm: An mpi4py communicator, or an object with the same rank, size and bcast.
        device: CUDA device index of this rank.
        **options: NcclOptions.

    Returns:
        A communicator with the rank and size of mpi_comm.

    Raises:
        Error: As raised by from_nccl_id. If rank 0 cannot create an id, every rank raises its
            error.
    """
    id = broadcast_new_id(mpi_comm.rank, mpi_comm.bcast)
    return from_nccl_id(id, mpi_comm.rank, mpi_comm.size, device, **options)


class Store(Protocol):
    """The part of torch.distributed.Store that nccl_from_store uses."""

    def add(self, key: str, amount: int, /) -> int: ...
    def set(self, key: str, value: bytes, /) -> Any: ...
    def get(self, key: str, /) -> bytes: ...


def nccl_from_store(
    store: Store,
    rank: int,
    size: int,
    device: int,
    *,
    prefix: str = "syncnorm/nccl",
    **options: Unpack[NcclOptions],
) -> Communicator:
    """Create the communicator of one rank of a new NCCL group, over a key-value store.

    Every rank makes the call. The ranks can create any number of groups with one store: the store
    counts the groups of each rank.

    Args:
        store: A torch.distributed.Store, or an object with the same add, set and get. get(key)
            waits until the key is set.
        rank: Rank of this communicator, 0 <= rank < size.
        size: Number of ranks in the group.
        device: CUDA device index of this rank.
        prefix: Prefix of the keys. Different sets of ranks need different prefixes.
        **options: NcclOptions.

    Returns:
        A communicator of kind "nccl".

    Raises:
        Error: As raised by from_nccl_id. If rank 0 cannot create an id, every rank raises its
            error. Exceptions of the store are not changed.
    """
    key = f"{prefix}/{store.add(f'{prefix}/groups of rank {rank}', 1)}"

    def broadcast(message: bytes | None) -> bytes:
        if message is None:
            return store.get(key)
        store.set(key, message)
        return message

    return from_nccl_id(broadcast_new_id(rank, broadcast), rank, size, device, **options)
