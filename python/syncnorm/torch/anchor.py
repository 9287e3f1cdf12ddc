"""An input by which a rank joins the backward passes of the others."""

from __future__ import annotations

import torch

# Requires a gradient where nothing else on this rank does. Of no elements and never looked at; it
# exists once because a compiler takes no such tensor that it sees being made, and on the CPU so
# that to import this package starts no device.
ANCHOR = torch.empty(0, dtype=torch.float64, device="cpu", requires_grad=True)
