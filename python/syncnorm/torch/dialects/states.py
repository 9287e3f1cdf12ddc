"""State dicts whose values are arrays, as checkpoints of other systems are exported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def tensor_of(value: Any) -> Tensor:
    """A tensor, or a copy of an array as one; also of bfloat16, which NumPy does not know."""
    if isinstance(value, Tensor):
        return value
    dtype = getattr(value, "dtype", None)
    if dtype is not None and dtype.name in ("bfloat16", "void16"):  # of ml_dtypes; out of a file
        return torch.tensor(value.view("int16")).view(torch.bfloat16)
    if hasattr(value, "astype"):  # torch takes neither another byte order nor negative strides
        value = value.astype(value.dtype.newbyteorder("="), order="C")
    return torch.tensor(value)


class TakesArrays(nn.Module):
    """A layer that loads a state dict of NumPy's arrays as well as one of tensors."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        names = {prefix + name for name in (*self._parameters, *self._buffers)}
        taken = {key: self._loaded(tensor_of(state_dict[key])) for key in names & state_dict.keys()}
        super()._load_from_state_dict({**state_dict, **taken}, prefix, *args)

    def _loaded(self, value: Tensor) -> Tensor:
        """What a parameter or buffer gets of what a state dict has for it."""
        return value
