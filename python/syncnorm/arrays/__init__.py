"""The one adapter for libraries of arrays. `syncnorm.numpy` and `syncnorm.cupy` are its faces.

It imports no array library: `library.ArrayLibrary` is what it asks of one.
"""

from __future__ import annotations

from .functions import Functions
from .layer import SyncBatchNorm
from .library import ArrayLibrary
from .phases import Phases
from .results import Gradients, Saved

__all__ = ["ArrayLibrary", "Functions", "Gradients", "Phases", "Saved", "SyncBatchNorm"]
