"""A stand-in for torchvision's compiled operators where they cannot be loaded.

The index's wheel of torchvision is built for CUDA. Beside a PyTorch for CPUs its library does not
load, and `import torchvision` fails because the operators torchvision::nms and qnms do not exist.
.venv-recipes imports this module at the start of Python (make test-recipes). It defines them,
without an implementation, when torchvision is imported and has found its own library missing.
"""

from __future__ import annotations

import sys
from typing import Any


class _Finder:
    """Finds nothing, but sees the import of the module that needs the operators."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name != "torchvision._meta_registrations":
            return
        if not sys.modules["torchvision.extension"]._has_ops():
            _define_operators()


def _define_operators() -> None:
    import torch

    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", schema)


sys.meta_path.insert(0, _Finder)
