"""The adapter that `syncnorm.numpy` and `syncnorm.cupy` share.

It imports no array library: `ArrayLibrary` is the interface that each of the two implements.
"""

from __future__ import annotations

from .functions import Functions
from .layer import SyncBatchNorm
from .library import ArrayLibrary
from .phases import Phases
from .results import Gradients, Saved

__all__ = ["ArrayLibrary", "Functions", "Gradients", "Phases", "Saved", "SyncBatchNorm"]
