"""Collect the facts, and print them as text."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from typing import Any

import syncnorm
from syncnorm._cli.machine import cpu_model
from syncnorm._facts import usable_cores
from syncnorm.launcher import find_jobs, local_rank

from .environment import variables
from .processes import run_processes

FORMAT = 1  # of the JSON; a key that is removed or changes its meaning increments it
_PROBE_SECONDS = 120.0
# Distributions of each framework. CuPy's names depend on the CUDA version.
_FRAMEWORKS = {
    "torch": ("torch",),
    "numpy": ("numpy",),
    "cupy": ("cupy", "cupy-cuda12x", "cupy-cuda13x"),
    "jax": ("jax",),
    "mpi4py": ("mpi4py",),
}


def collect() -> dict[str, Any]:
    """Return all facts; docs/info.md describes the keys."""
    with ThreadPoolExecutor() as pool:
        frameworks = pool.map(_framework, _FRAMEWORKS.items())
        return {
            "format": FORMAT,
            "syncnorm": syncnorm.capabilities(),
            "python": {"version": platform.python_version(), "executable": sys.executable},
            "system": {
                "platform": platform.platform(),
                "cpu": cpu_model(),
                "cores": usable_cores(),
            },
            "gpu": _gpu(),
            **dict(zip(_FRAMEWORKS, frameworks, strict=True)),
            "job": _job(os.environ),
            "environment": variables(os.environ),
        }


def text(found: Mapping[str, Any]) -> str:
    """Return the facts as lines of text."""
    core, system = found["syncnorm"], found["system"]
    lines = [
        ("syncnorm", core["version"]),
        ("library", core["library"] or "unknown"),
        ("python", f"{found['python']['version']}, {found['python']['executable']}"),
        ("CPU", f"{system['cpu']}, {system['cores']} cores, instruction set {core['cpu_isa']}"),
        ("GPU", _gpu_line(found["gpu"])),
        ("CUDA", _cuda_line(core["cuda_built"], core["cuda_devices"], core["cuda_problem"])),
        ("NCCL", _nccl_line(core["cuda_built"], core["nccl"], found["environment"])),
        *(("", f"{path}: another copy in this process") for path in core["other_nccl"]),
        *((name, _framework_line(found[name])) for name in _FRAMEWORKS),
        ("job", _job_line(found["job"])),
        *(
            (name, _variable_line(name, value, core["cpu_isa"]))
            for name, value in found["environment"].items()
        ),
        *(("check", _check_line(check)) for check in found.get("check", [])),
    ]
    return "\n".join(f"{name:<8} {line}" for name, line in lines)


def _framework(named: tuple[str, Sequence[str]]) -> dict[str, Any]:
    name, packages = named
    version = None
    for package in packages:
        try:
            version = metadata.version(package)
            break
        except metadata.PackageNotFoundError:
            continue
    if util.find_spec(name) is None:
        problem = None if version is None else "the package is installed, its module is missing"
        return {"version": version, "problem": problem}
    command = [sys.executable, "-m", "syncnorm.info.probe", name]
    (ended,) = run_processes([command], _PROBE_SECONDS)
    if ended.problem is not None:
        return {"version": version, "problem": f"import failed: {ended.problem}"}
    facts = json.loads(ended.output.splitlines()[-1])
    return {**facts, "version": version or facts["version"] or "unknown", "problem": None}


def _gpu() -> dict[str, Any]:
    """Return driver version and GPUs, as nvidia-smi reports them."""
    none: dict[str, Any] = {"driver": None, "devices": []}
    command = shutil.which("nvidia-smi")
    if command is None:
        return {**none, "problem": "nvidia-smi is not installed"}
    query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    (ended,) = run_processes([[command, *query]], _PROBE_SECONDS)
    rows = [
        [field.strip() for field in line.rsplit(",", 2)]
        for line in ended.output.splitlines()
        if line.count(",") >= 2
    ]
    if ended.problem is not None or not rows:
        said = (*ended.output.splitlines(), ended.problem, "it lists no GPU")  # errors: to stdout
        return {**none, "problem": f"nvidia-smi: {next(line for line in said if line)}"}
    devices = [{"name": name, "memory": memory} for name, memory, _ in rows]
    return {"driver": rows[0][2], "devices": devices, "problem": None}


def _job(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the job of a launcher that this process is a rank of."""
    job: dict[str, Any] = dict.fromkeys(("launcher", "rank", "size", "local_rank", "problem"))
    try:
        jobs = find_jobs(environment)
        if jobs:
            first = jobs[0]
            job |= {"launcher": first.launcher, "rank": first.rank, "size": first.world_size}
            job["local_rank"] = local_rank()
    except syncnorm.Error as error:
        job["problem"] = str(error)
    return job


def _gpu_line(gpu: Mapping[str, Any]) -> str:
    if gpu["problem"] is not None:
        return f"none found: {gpu['problem']}"
    names = [f"{device['name']} ({device['memory']})" for device in gpu["devices"]]
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return f"{', '.join(counted)}; driver {gpu['driver']}"


def _cuda_line(built: bool, devices: int, problem: str | None) -> str:
    if not built:
        return "not in this build; SYNCNORM_CUDA=ON builds it (docs/building.md)"
    if devices == 0:
        return f"built; no usable device: {problem}"
    return f"built; {devices} usable device{'s' if devices > 1 else ''}"


def _nccl_line(cuda_built: bool, nccl: str | None, environment: Mapping[str, Any]) -> str:
    if nccl is not None:
        return nccl if cuda_built else f"{nccl}; not used: this build has no CUDA backend"
    if named := environment["SYNCNORM_NCCL_LIBRARY"]["value"]:
        return f"not found: SYNCNORM_NCCL_LIBRARY names {named}, which cannot be loaded as NCCL"
    return "not found: not loaded, no package nvidia-nccl, no system library"


def _framework_line(framework: Mapping[str, Any]) -> str:
    parts = [framework["version"] or "not installed"]
    if framework["problem"] is not None:
        parts.append(framework["problem"])
    if "library" in framework:
        parts.append(framework["library"])
    if "backends" in framework:
        backends = framework["backends"].items()
        parts.append(f"CUDA {framework['cuda'] or 'not built'}")
        if framework["devices"]:
            parts.append(f"devices: {', '.join(framework['devices'])}")
        for state, has in (("distributed", True), ("not available", False)):
            names = [name for name, present in backends if present is has]
            parts.append(f"{state}: {', '.join(names) or 'none'}")
    return "; ".join(parts)


def _job_line(job: Mapping[str, Any]) -> str:
    if job["problem"] is not None:
        return f"unclear: {job['problem']}"
    if job["launcher"] is None:
        return "none: the environment has no variables of mpirun, srun or torchrun"
    size = "an unknown number" if job["size"] is None else job["size"]
    return f"rank {job['rank']} of {size}, local rank {job['local_rank']}; from {job['launcher']}"


def _variable_line(name: str, variable: Mapping[str, Any], cpu_isa: str) -> str:
    if not variable["known"]:
        return f"{variable['value']}: unknown variable, nothing reads it"
    value = "not set" if variable["value"] is None else f"set to {variable['value']}"
    if name == "SYNCNORM_CPU_ISA" and variable["value"] not in (None, cpu_isa):
        value += f", ignored: this machine uses {cpu_isa}"
    return f"{value} ({variable['meaning']})"


def _check_line(check: Mapping[str, Any]) -> str:
    line = f"{check['status']}: {check['backend']}"
    if devices := check["devices"]:
        line += f", {len(devices)} rank{'s' if len(devices) > 1 else ''} ({', '.join(devices)})"
    if check["error"] is not None:
        line += f"; largest relative error {check['error']:.1e}"
    return line if check["problem"] is None else f"{line}; {check['problem']}"
