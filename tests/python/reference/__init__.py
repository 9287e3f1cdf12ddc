"""Batch normalization over a list of shards, written from the formulas and independent of the core.

Everything is computed in the widest float NumPy has (80 or 128 bits on most machines), by centred
two-pass sums, so that the reference is exact to the eye of every dtype under test.
"""

from reference.batch_norm import (
    Backward,
    Forward,
    Policy,
    Shard,
    backward,
    forward,
    infer,
    infer_backward,
    update_running,
)

__all__ = [
    "Backward",
    "Forward",
    "Policy",
    "Shard",
    "backward",
    "forward",
    "infer",
    "infer_backward",
    "update_running",
]
