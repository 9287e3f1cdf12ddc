"""float64 values to and from the bits of each dtype; bfloat16 is the upper half of a float32."""

from __future__ import annotations

import numpy as np

STORAGE = {
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float32": np.float32,
    "float64": np.float64,
    "int64": np.int64,
    "int32": np.int32,
    "uint8": np.uint8,
}
FLOATS = ("float16", "bfloat16", "float32", "float64")

# Half an ulp of a number in [1, 2), and half the smallest subnormal: |rounding| <= u*|v| + tiny.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
LARGEST = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.40e38, "float64": 1.79e308}
TINY = {"float16": 2.0**-25, "bfloat16": 2.0**-134, "float32": 2.0**-150, "float64": 0.0}


def itemsize(dtype: str) -> int:
    return np.dtype(STORAGE[dtype]).itemsize


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest values of dtype, as its storage type."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(STORAGE[dtype])
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def decode(storage: np.ndarray, dtype: str) -> np.ndarray:
    """The exact values as float64 (integers stay what they are)."""
    if dtype == "bfloat16":
        return (storage.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return storage.astype(np.float64) if dtype in FLOATS else storage


def quantize(values: np.ndarray, dtype: str) -> np.ndarray:
    """values rounded to dtype, as float64."""
    return decode(encode(values, dtype), dtype)
