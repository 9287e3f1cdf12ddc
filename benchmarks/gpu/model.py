"""Predict the time of each kernel on an H200, for a device to prove wrong.

`python -m benchmarks.gpu.model` prints the table of benchmarks/notes.md.

A kernel takes: its launch; the time of its bytes at the speed of a copy, or of its instructions if
that is longer; and, of sums, the way from the last value to the wire. That grids are one wave, that
enough bytes are under way and that merges are short is not part of the model:
tests/cpp/test_backend_cuda_geometry.cpp asserts it. Caches are cold.
"""

from __future__ import annotations

from .cases import DTYPES, LAYOUTS, Case, resnet50

COPY_BANDWIDTH = 4.3e12  # bytes a second, read and written, where none was measured
MULTIPROCESSORS = 132
CLOCK = 1.7e9
BLOCKS = 2 * MULTIPROCESSORS  # at a time: launch bounds of the kernels

# Reads and writes of the whole tensor. Their sums are PASSES of cases.py.
TENSORS = {"moments": 1, "normalize": 2, "grad_moments": 2, "grad_input": 3}
# Instructions of a warp for each access of 16 bytes a lane, by `make cuda-report` for sm_90, of the
# slower of rows and planes: for values of 2 bytes, and of 4.
SLOTS = {
    "moments": (69, 45),
    "normalize": (54, 32),
    "grad_moments": (60, 36),
    "grad_input": (49, 30),
}

# Seconds, all estimated.
LAUNCH = 2.0e-6  # and the first block's way to its first values
FOLD = 0.6e-6  # from the last value to the sums of a block
TICKET = 0.9e-6  # partial sums written, a fence, an atomic operation, a fence
MERGE_ROUND = 0.35e-6  # loads from the L2 cache that are issued together, and their addition
MERGE_ROUNDS = 4  # 12 loads each: of 128 splits at most, several threads to a sum
FINISH = 0.4e-6


def predicted_seconds(case: Case, phase: str, copy_bandwidth: float) -> float:
    """Return the time of one kernel with cold caches."""
    nbytes = TENSORS[phase] * case.nbytes
    wide = 0 if case.dtype != "float32" else 1
    warp_accesses = nbytes / (32 * 16)
    issue = warp_accesses * SLOTS[phase][wide] / (4 * MULTIPROCESSORS * CLOCK)
    seconds = LAUNCH + max(nbytes / copy_bandwidth, issue)
    if phase in ("moments", "grad_moments"):
        seconds += FOLD + FINISH
        # Blocks share channels, unless there are planes enough for all of them.
        if case.layout == "channels_last" or case.shape[1] < BLOCKS:
            seconds += TICKET + MERGE_ROUNDS * MERGE_ROUND
    return seconds


def table(images: int = 32) -> str:
    """Return microseconds for every shape of ResNet-50, as Markdown."""
    head = ("shape", "dtype", "layout", *TENSORS, "% of copy")
    lines = [head, ("---",) * 3 + ("---:",) * (len(head) - 3)]
    for shape in resnet50(images):
        for dtype in (d for d in DTYPES if d != "float16"):
            for layout in LAYOUTS:
                case = Case("", shape, dtype, layout)
                found = [predicted_seconds(case, phase, COPY_BANDWIDTH) for phase in TENSORS]
                ideal = sum(TENSORS.values()) * case.nbytes / COPY_BANDWIDTH
                name = case.name.split()
                times_us = [f"{1e6 * seconds:.1f}" for seconds in found]
                share = f"{100 * ideal / sum(found):.0f}"
                lines.append((name[0], dtype, name[2], *times_us, share))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table())
