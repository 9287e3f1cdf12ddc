"""Run short programs in processes of their own, with a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_GRACE_SECONDS = 5.0  # for the other processes, after one has failed
# A launcher's variables would make our processes ranks of its job. SLURM's stay: a nested mpirun
# finds its hosts there.
_LAUNCHER = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "MV2_", "MPI_LOCAL", "PALS_", "TORCHELASTIC_")
_TORCHRUN = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"),
    *("MASTER_ADDR", "MASTER_PORT"),
}


@dataclass(frozen=True)
class Ended:
    """The end of a process: its output, and the reason of its failure or None."""

    output: str
    problem: str | None


def environment_without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those of mpirun and torchrun."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _TORCHRUN and not name.startswith(_LAUNCHER)
    }


def run_processes(
    commands: Sequence[Sequence[str]], timeout: float, **variables: str
) -> list[Ended]:
    """Run the commands at the same time, and end all of them at the deadline.

    Args:
        commands: The command of each process.
        timeout: Seconds until all must have ended.
        **variables: Added to the environment, which has no launcher's variables.
    """
    environment = {**environment_without_launcher(os.environ), **variables}
    with TemporaryDirectory(prefix="syncnorm-info-") as name:
        folder = Path(name)
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for index, command in enumerate(commands):
                with (
                    (folder / f"{index}.out").open("wb") as out,
                    (folder / f"{index}.err").open("wb") as err,
                ):
                    process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        env=environment,
                        start_new_session=True,
                    )
                processes.append(process)
            _wait(processes, timeout)
        finally:
            late = [_end(process) for process in processes]
        return [
            Ended(
                _read(folder / f"{index}.out"),
                _problem(process, _read(folder / f"{index}.err"), timeout if late[index] else None),
            )
            for index, process in enumerate(processes)
        ]


def _wait(processes: Sequence[subprocess.Popen[bytes]], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    failed = False
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if not failed and any(process.poll() not in {None, 0} for process in processes):
            failed = True
            deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> bool:
    """End the process, with its children, if it runs; return whether it did."""
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGTERM)  # mpirun ends its ranks, which are in other groups
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _problem(process: subprocess.Popen[bytes], errors: str, timeout: float | None) -> str | None:
    if timeout is not None:
        return f"still running when ended; the time limit is {timeout:g} s"
    code = process.returncode
    if code == 0:
        return None
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit status {code}"
