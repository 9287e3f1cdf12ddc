"""Where a call of the core runs: its workspace, threads or stream, and what a stream keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from syncnorm._core import CONTROL_SIZE, Array
from syncnorm.status_word import StatusWord, explanation

from .group import Group
from .hang_help.who_is_where import disagreement

# By device index and stream: zeroed once, and left zero by every call of the core.
_controls: dict[tuple[int, int], Tensor] = {}
# By device index.
_status_words: dict[int, StatusWord] = {}


def placement(x: Tensor, workspace_size: int) -> dict[str, Any]:
    """The keyword arguments of a function of the core that say where it works on x."""
    workspace = x.new_empty(workspace_size, dtype=torch.uint8)
    if not x.is_cuda:
        return {"workspace": workspace, "num_threads": torch.get_num_threads()}
    stream = torch.cuda.current_stream(x.device).cuda_stream
    capturing = is_capturing(x)
    index = x.device.index
    return {
        "workspace": workspace,
        "stream": stream,
        # A graph may be replayed on any stream, beside calls on the one that captured it.
        "control": None if capturing else _control(x.device, stream),
        "status": _status(index, create=not capturing),
    }


def is_capturing(x: Tensor) -> bool:
    """Whether work on x now becomes part of a CUDA graph."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def raise_if_ranks_disagreed(x: Tensor, group: Group = None) -> None:
    """DesyncError where an earlier call on x's CUDA device found ranks in different calls.

    The device does not know in which group that was: the last calls of the ranks are told of the
    group that is given.
    """
    word = _status_words.get(x.device.index) if x.is_cuda else None
    if word is not None and word.take():
        raise disagreement(group, explanation(x.device))


def _control(device: torch.device, stream: int) -> Tensor:
    key = (device.index, stream)
    control = _controls.get(key)
    if control is None:
        control = torch.zeros(CONTROL_SIZE, dtype=torch.uint8, device=device)
        _controls[key] = control
    return control


def _status(device_index: int, create: bool) -> Array | None:
    word = _status_words.get(device_index)
    if word is None:
        if not create:
            return None
        memory = torch.zeros(1, dtype=torch.int32).pin_memory()
        word = StatusWord(memory.data_ptr(), device_index, memory)
        # Of two threads that come at once the first sets the word of both.
        word = _status_words.setdefault(device_index, word)
    return word.array
