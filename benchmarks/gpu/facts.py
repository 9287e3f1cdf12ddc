"""Facts that every result states: GPU, driver, versions, date."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import torch

import syncnorm
from syncnorm._cli.machine import machine_facts


def _said(*command: str) -> str:
    """What a command prints; "unknown" where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _nvidia_smi(field: str) -> str:
    return _said("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0")


def facts(device: str) -> dict[str, Any]:
    found = {
        **machine_facts(),
        "device": device,
        "torch_cuda": torch.version.cuda or "none",
        "nccl": syncnorm.capabilities()["nccl"] or "none",
        "commit": _said("git", "rev-parse", "HEAD"),
    }
    if device != "cuda":
        return {**found, "gpu": "none: a rehearsal on the CPU, whose numbers mean nothing"}
    properties = torch.cuda.get_device_properties(0)
    return {
        **found,
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        "driver": _nvidia_smi("driver_version"),
        "cudnn": torch.backends.cudnn.version(),
        # By default torch computes convolutions of float32 in TF32.
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "torch_nccl": ".".join(map(str, torch.cuda.nccl.version())),
    }


def line(found: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {found[key]}"
        for name, key in (
            ("driver", "driver"),
            ("CUDA", "torch_cuda"),
            ("torch", "torch"),
            ("cuDNN", "cudnn"),
            ("NCCL", "torch_nccl"),
            ("syncnorm", "syncnorm"),
        )
        if key in found
    )
    return f"{found['gpu']}; {versions}; {found['date']}"
