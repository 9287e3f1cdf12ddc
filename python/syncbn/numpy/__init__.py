"""Synchronized batch normalization of NumPy arrays: channel axis 1, arrays in, arrays out."""

from __future__ import annotations

from syncbn.numpy.functional import Gradients, Saved, backward, forward, infer
from syncbn.numpy.phases import center, grad_input, grad_moments, moments, normalize

__all__ = [
    "Gradients",
    "Saved",
    "backward",
    "center",
    "forward",
    "grad_input",
    "grad_moments",
    "infer",
    "moments",
    "normalize",
]
