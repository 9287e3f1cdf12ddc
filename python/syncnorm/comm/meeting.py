"""How the id of a new NCCL group gets from rank 0 to the others, whoever carries it."""

from __future__ import annotations

from collections.abc import Callable

from syncnorm import _core

_ID = b"id:"
_ERROR = b"error:"


def shared_id(rank: int, share: Callable[[bytes | None], bytes]) -> bytes:
    """The id that rank 0 made. share(message) hands rank 0's message to every rank; collective.

    Where rank 0 cannot make an id the message is its error, and every rank raises it: the others
    would otherwise wait for an id that never comes.
    """
    if rank != 0:
        return _read(share(None))
    try:
        id = _core.nccl_unique_id()
    except _core.Error as error:
        share(_ERROR + f"{type(error).__name__}:{error}".encode())
        raise
    share(_ID + id)
    return id


def _read(message: bytes) -> bytes:
    if message.startswith(_ID):
        return message.removeprefix(_ID)
    name, _, text = message.removeprefix(_ERROR).decode().partition(":")
    raised: type[_core.Error] = getattr(_core, name)
    raise raised(f"rank 0 could not make the id of the group: {text}")
