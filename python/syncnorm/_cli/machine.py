"""Describe the machine and the software versions of a measurement."""

from __future__ import annotations

import datetime
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import syncnorm
from syncnorm._facts import usable_cores


def cpu_model() -> str:
    """Return the model name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the version of each distribution, or "not installed"."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def machine_facts() -> dict[str, Any]:
    """Return date, CPU, system and versions, for a result file."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "isa": syncnorm.capabilities()["cpu_isa"],
        "system": platform.platform(),
        "python": platform.python_version(),
        "syncnorm": syncnorm.__version__,
        **package_versions(("torch", "numpy", "jax")),
    }


def machine_line(facts: dict[str, Any]) -> str:
    """Return machine_facts() as one line of text."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['isa']}; "
        f"syncnorm {facts['syncnorm']}, torch {facts['torch']}, Python {facts['python']}"
    )
