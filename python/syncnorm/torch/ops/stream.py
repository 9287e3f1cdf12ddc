"""Where a call of the core runs: threads, or a stream with its workspace, control and status."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from syncnorm import Options, _core
from syncnorm.status_word import StatusWord, explanation

# By device index and stream. The core leaves a control buffer zeroed after every call.
_controls: dict[tuple[int, int], Tensor] = {}
# By device index.
_status_words: dict[int, StatusWord] = {}


def launch(x: Tensor, options: Options, status: bool = True) -> dict[str, Any]:
    """Return the keyword arguments of a core function that say where it works on x.

    Args:
        status: Include the status word, which functions that use no group do not take.
    """
    if not x.is_cuda:
        return {"num_threads": torch.get_num_threads()}
    stream = torch.cuda.current_stream(x.device).cuda_stream
    capturing = is_capturing(x)
    word = {"status": _status(x.device.index, create=not capturing)} if status else {}
    return {
        **word,
        "workspace": Tensor.new_empty(x, _core.sizes(x, options).workspace, dtype=torch.uint8),
        "stream": stream,
        # A graph may be replayed on any stream, beside calls on the stream that captured it.
        "control": None if capturing else _control(x.device, stream),
    }


def is_capturing(x: Tensor) -> bool:
    """Return whether work on x is being captured into a CUDA graph."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def take_disagreement(x: Tensor) -> str | None:
    """Return and clear the message of an earlier disagreement of ranks on x's CUDA device."""
    word = _status_words.get(x.device.index) if x.is_cuda else None
    return explanation(x.device) if word is not None and word.take() else None


def _control(device: torch.device, stream: int) -> Tensor:
    key = (device.index, stream)
    control = _controls.get(key)
    if control is None:
        control = torch.zeros(_core.CONTROL_SIZE, dtype=torch.uint8, device=device)
        _controls[key] = control
    return control


def _status(device_index: int, create: bool) -> _core.Array | None:
    word = _status_words.get(device_index)
    if word is None:
        if not create:
            return None
        memory = torch.zeros(1, dtype=torch.int32).pin_memory()
        word = StatusWord(memory.data_ptr(), device_index, memory)
        # Two threads may arrive here at once: both use the word that was stored first.
        word = _status_words.setdefault(device_index, word)
    return word.array
