"""Synchronized batch normalization of NumPy arrays.

Arrays in, arrays out: `forward`, `backward`, `infer`, the phases, and the layer `SyncBatchNorm`.
Arrays of other libraries in host memory are used without a copy, through DLPack. `xp` is numpy, and
`to_numpy` and `select_device` are there for programs that also run with syncnorm.cupy.
"""

from __future__ import annotations

import numpy as xp

import syncnorm.arrays
from syncnorm.arrays import Functions, Gradients, Phases, Saved

from .library import LIBRARY, NumpyArray

_functions = Functions(LIBRARY)
forward = _functions.forward
backward = _functions.backward
infer = _functions.infer

_phases = Phases(LIBRARY)
moments = _phases.moments
center = _phases.center
normalize = _phases.normalize
grad_moments = _phases.grad_moments
grad_input = _phases.grad_input


class SyncBatchNorm(syncnorm.arrays.SyncBatchNorm[NumpyArray]):
    __doc__ = syncnorm.arrays.SyncBatchNorm.__doc__

    functions = _functions


to_numpy = LIBRARY.to_numpy
select_device = LIBRARY.select_device

__all__ = [
    "Gradients",
    "Saved",
    "SyncBatchNorm",
    "backward",
    "center",
    "forward",
    "grad_input",
    "grad_moments",
    "infer",
    "moments",
    "normalize",
    "select_device",
    "to_numpy",
    "xp",
]
