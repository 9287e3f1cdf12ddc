"""Broadcast the id of a new NCCL group, or the error that prevented it."""

from __future__ import annotations

from collections.abc import Callable

from syncnorm import _core

_ID = b"id:"
_ERROR = b"error:"


def broadcast_new_id(rank: int, broadcast: Callable[[bytes | None], bytes]) -> bytes:
    """Create an NCCL id on rank 0 and return it on every rank. Collective.

    If rank 0 cannot create an id, it broadcasts its error and every rank raises it. Otherwise the
    other ranks would wait until their timeout.

    Args:
        rank: The rank of this process.
        broadcast: Broadcasts the message of rank 0; the other ranks pass None.
    """
    if rank != 0:
        return _decode(broadcast(None))
    try:
        id = _core.nccl_unique_id()
    except _core.Error as error:
        broadcast(_ERROR + f"{type(error).__name__}:{error}".encode())
        raise
    broadcast(_ID + id)
    return id


def _decode(message: bytes) -> bytes:
    if message.startswith(_ID):
        return message.removeprefix(_ID)
    name, _, text = message.removeprefix(_ERROR).decode().partition(":")
    error_class: type[_core.Error] = getattr(_core, name)
    raise error_class(f"rank 0 could not create the NCCL id: {text}")
