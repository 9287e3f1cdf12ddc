"""Synchronized batch normalization for JAX: a function, and the phases that it is composed of.

The import registers the core's phases with XLA, for CPU and CUDA devices.
"""

from __future__ import annotations

from syncnorm.settings import Settings

from .functional import batch_norm
from .grad_phases import Gradients, grad_input, grad_moments, infer_backward
from .phases import center, infer, moments, normalize, update_running
from .running_statistics import RunningStatistics
from .wires import add_up, sum_over

__all__ = [
    "Gradients",
    "RunningStatistics",
    "Settings",
    "add_up",
    "batch_norm",
    "center",
    "grad_input",
    "grad_moments",
    "infer",
    "infer_backward",
    "moments",
    "normalize",
    "sum_over",
    "update_running",
]
