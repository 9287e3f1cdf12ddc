"""Communicators over NCCL: each rank holds one CUDA device and sums in that device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from syncnorm import _core
from syncnorm._capabilities import capabilities
from syncnorm._core import Communicator
from syncnorm._facts import class_name

from .meeting import shared_id

if TYPE_CHECKING:
    from typing_extensions import Unpack


class NcclOptions(TypedDict, total=False):
    """The keyword arguments of every function here that makes a communicator.

    init_timeout: seconds until all ranks must have come, to create the group and to split it; 300
    where not given. sum_timeout: the communicator is aborted when a sum has made no progress for so
    many seconds after it was enqueued; 600 where not given, None for no such watchdog. max_ctas:
    thread blocks that NCCL may use for a sum; None, as where not given, for NCCL's own choice.
    """

    init_timeout: float
    sum_timeout: float | None
    max_ctas: int | None


def nccl_unique_id() -> bytes:
    """The bytes by which the ranks of one new group find each other.

    Made by one rank, which must stay alive until the group exists, carried to the others by the
    caller, and used for one group only. nccl_from_mpi, nccl_from_store and
    syncnorm.torch.nccl_communicator make and carry one.

    Raises UnsupportedError where there is no NCCL, or one that is too old, or no CUDA in this
    build; NcclError for what NCCL reports.
    """
    return _core.nccl_unique_id()


def from_nccl_id(
    id: bytes | None, rank: int, size: int, device: int, **options: Unpack[NcclOptions]
) -> Communicator:
    """Rank `rank` of a new group of `size`, on CUDA device `device`; every rank calls it.

    id: from nccl_unique_id(), the same on all ranks. None: the ranks meet at the address
    ("host:port") in the environment variable NCCL_COMM_ID, where rank 0 listens.

    Raises CommunicatorTimeoutError where not all ranks came within init_timeout, NcclError for what
    NCCL refuses, such as two ranks on one device, CudaError where there is no such device, and
    otherwise as nccl_unique_id.
    """
    return _core.nccl_communicator(id, rank, size, device, **options)


def nccl_group(
    devices: Sequence[int] | None = None, **options: Unpack[NcclOptions]
) -> list[Communicator]:
    """Communicators of one new group whose ranks are all in this process; item i is rank i.

    Rank i is on CUDA device devices[i]; None: a rank on every device of this machine. Each is used
    by one thread at a time, and each in a thread of its own.

    Raises InvalidArgumentError for a device that is given twice, and otherwise as from_nccl_id.
    """
    if devices is None:
        # Without any, to try the first one says why.
        devices = range(max(1, _core.capabilities()["cuda_devices"]))
    return _core.nccl_group(devices, **options)


class CupyCommunicator(Protocol):
    """What borrow_nccl uses of a cupy.cuda.nccl.NcclCommunicator."""

    @property
    def comm(self) -> int: ...


class Nccl4pyCommunicator(Protocol):
    """What borrow_nccl uses of an nccl.core.Communicator."""

    @property
    def ptr(self) -> int: ...


def borrow_nccl(
    nccl_comm: int | CupyCommunicator | Nccl4pyCommunicator, **options: Unpack[NcclOptions]
) -> Communicator:
    """A communicator over somebody else's ncclComm_t.

    nccl_comm: CuPy's NcclCommunicator, nccl4py's Communicator, or the address of an ncclComm_t. An
    object is kept alive as long as the communicator; do not destroy or abort it meanwhile, and see
    to it that an address stays valid. While a call is under way nothing else may use it. It is
    neither aborted nor destroyed here, and the watchdog does not look after it; the options hold
    for what is split from it.

    It was made by the copy of NCCL that capabilities() names: CuPy and nccl4py use the one that the
    process has loaded, as syncnorm does. Where it has loaded several, objects are refused, as
    nobody can tell which copy made them.

    Raises InvalidArgumentError for an object that was destroyed, and where there are several copies
    of NCCL; TypeError for another object; and otherwise as from_nccl_id.
    """
    if isinstance(nccl_comm, int):
        return _core.borrow_nccl(nccl_comm, **options)
    pointer = getattr(nccl_comm, "comm", getattr(nccl_comm, "ptr", None))
    if not isinstance(pointer, int):
        raise TypeError(
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


def _require_one_nccl(maker: object) -> None:
    found = capabilities()
    if found["other_nccl"]:
        raise _core.InvalidArgumentError(
            f"nccl_comm: the copy of NCCL that made this {class_name(maker)} must be the one that"
            f" syncnorm uses, {found['nccl']}; this process has also loaded"
            f" {', '.join(found['other_nccl'])}. Have it load one only (SYNCNORM_NCCL_LIBRARY names"
            " syncnorm's), or give the address if you know better"
        )


class MpiCommunicator(Protocol):
    """What nccl_from_mpi uses of an mpi4py.MPI.Comm."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def bcast(self, obj: Any, root: int = 0) -> Any: ...


def nccl_from_mpi(
    mpi_comm: MpiCommunicator, device: int, **options: Unpack[NcclOptions]
) -> Communicator:
    """This process's rank of a new group with the ranks of an mpi4py communicator.

    Collective over mpi_comm, which only carries the id, by its bcast. from_mpi(mpi_comm, device)
    does the same with a deadline. Where rank 0 cannot make an id, every rank raises its error.
    Raises as from_nccl_id.
    """
    id = shared_id(mpi_comm.rank, mpi_comm.bcast)
    return from_nccl_id(id, mpi_comm.rank, mpi_comm.size, device, **options)


class Store(Protocol):
    """What nccl_from_store uses of a torch.distributed.Store."""

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
    """Rank `rank` of a new group of `size` whose ranks share a key-value store.

    store: a torch.distributed.Store or its like. get(key) waits until the key was set, as long as
    the store has it wait; add(key, 1) counts each rank's groups, so that the store serves for any
    number of them. prefix: of the keys; another one for every set of ranks that makes groups.

    Where rank 0 cannot make an id, every rank raises its error. Raises as from_nccl_id, and what
    the store raises.
    """
    key = f"{prefix}/{store.add(f'{prefix}/groups of rank {rank}', 1)}"

    def share(message: bytes | None) -> bytes:
        if message is None:
            return store.get(key)
        store.set(key, message)
        return message

    return from_nccl_id(shared_id(rank, share), rank, size, device, **options)
