"""Starts the processes of the ranks, waits for them with a deadline, and collects their reports."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from support.mpirun import mpirun_command

from .groups import kind_of
from .program import END_SECONDS
from .scenarios import ALL, EXITS, JOB_ENDS, KILLED, OTHERS, Fault, Promise

NOISE = 5.0  # seconds that a busy machine may add to a promise
HARD_DEADLINE = 50.0  # seconds for a fault and all that comes after it
START_SECONDS = 60.0

Report = dict[str, Any]


class Hang(AssertionError):
    """Ranks that have not come to an end, with the stacks of all their threads."""


class _Process:
    """A process of ranks that has connected."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(START_SECONDS)
        self.connection = connection
        self._lines = connection.makefile("r")
        hello = json.loads(self.receive())
        self.pid: int = hello["pid"]
        self.ranks: list[int] = hello["ranks"]

    def send(self, message: object) -> None:
        with suppress(BrokenPipeError):  # receive() tells that it has ended
            self.connection.sendall(f"{json.dumps(message)}\n".encode())

    def receive(self) -> str:
        """Return the next line; "" if the process has ended."""
        try:
            return self._lines.readline()
        except ConnectionResetError:
            return ""

    def close(self) -> None:
        self._lines.close()
        self.connection.close()


class Ranks:
    """The ranks of one kind of group. They run one fault after the other, until one ends them.

    Args:
        name: Of the kind.
        folder: An empty folder for sockets and logs.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._kind, self._folder = name, kind_of(name), folder
        self._processes: list[_Process] = []
        self._launcher: subprocess.Popen[str] | None = None
        self._numbers = count()
        self._listener = socket.socket(socket.AF_UNIX)
        self._address = str(folder / "socket")
        self._listener.bind(self._address)
        self._listener.listen()
        self._listener.settimeout(START_SECONDS)

    def check(self, fault: Fault) -> None:
        """Run a fault; raise AssertionError unless every rank gets what is promised."""
        promise = fault.promises[self._name]
        assert isinstance(promise, Promise)
        try:
            reports = self._run(fault)
            wrong = {
                rank: report
                for rank in range(self._kind.size)
                if not _is_kept(promise, report := reports.get(rank, {}), rank == fault.faulty)
            }
            assert not wrong, f"{promise}\n{_text(reports)}\n{self._logs()}"
        except BaseException:
            self.restart()
            raise

    def restart(self) -> None:
        """Kill the processes of the ranks; the next fault gets new ones."""
        for process in self._processes:
            process.close()
        self._kill()

    def close(self) -> None:
        """Kill all processes."""
        self.restart()
        self._end_launcher()
        self._listener.close()

    def _run(self, fault: Fault) -> dict[int, Report]:
        if not self._processes:
            self._start()
        folder = self._folder / f"fault {next(self._numbers)}"
        folder.mkdir()
        for process in self._processes:
            process.send({"fault": fault.name, "folder": str(folder)})
        reports: dict[int, Report] = {}
        gone: list[_Process] = []
        deadline = time.monotonic() + HARD_DEADLINE
        with self._selector() as selector:
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    stacks = self._stacks([key.data for key in selector.get_map().values()])
                    raise Hang(f"{self._name}, {fault.name}\n{_text(reports)}\n{stacks}")
                for key, _ in ready:
                    process: _Process = key.data
                    selector.unregister(key.fileobj)
                    line = process.receive()
                    if line:
                        reports |= {int(rank): each for rank, each in json.loads(line).items()}
                    else:
                        gone.append(process)
                        seconds = time.time() - _time_of(folder, process.ranks[0])
                        for rank in process.ranks:
                            reports[rank] = {"seconds": seconds}
        if gone:
            self._end(fault, gone, reports)
        return reports

    @contextmanager
    def _selector(self) -> Iterator[selectors.BaseSelector]:
        with selectors.DefaultSelector() as selector:
            for process in self._processes:
                selector.register(process.connection, selectors.EVENT_READ, process)
            yield selector

    # -------------------------------------------------------------------------------- processes

    def _start(self) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
        program = [sys.executable, "-m", "faults.program", self._name, self._address]
        program.append(str(self._folder))
        size = self._kind.size
        if self._name == "mpi":
            program = mpirun_command(size, *program)
        if self._launcher is None:
            self._launcher = subprocess.Popen(
                program, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        processes = [[rank] for rank in range(size)]
        if self._kind.shares_process:
            processes = [list(range(size))]
        if self._name != "mpi":
            for ranks in processes:
                self._ask("start", *ranks)
        self._processes = [_Process(self._listener.accept()[0]) for _ in processes]

    def _ask(self, *words: object) -> str:
        """Send a command to the server of forks; return its answer."""
        launcher = self._launcher
        assert launcher is not None
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(" ".join(map(str, words)) + "\n")
        launcher.stdin.flush()
        return launcher.stdout.readline().strip()

    def _end(self, fault: Fault, gone: list[_Process], reports: dict[int, Report]) -> None:
        """Report how the processes that are gone have ended; end the others, which must exit."""
        for process in self._processes:
            process.close()
        statuses = self._statuses()
        killed_by_mpirun = self._name == "mpi" and len(gone) == len(self._processes)
        for process in self._processes:
            status = statuses[process.pid]
            outcomes = {0: EXITS, -signal.SIGKILL: KILLED}
            for rank in process.ranks:
                if process in gone:
                    outcome = outcomes.get(status, f"ends with status {status}")
                    if killed_by_mpirun and status:
                        outcome = KILLED if rank == fault.faulty else JOB_ENDS
                    reports[rank]["outcome"] = outcome
                elif status != 0:
                    reports[rank]["after"] = f"ends with status {status}"
        self._kill()

    def _statuses(self) -> dict[int, int | None]:
        """Return the exit status of each process, None: has not ended; that of MPI: mpirun's."""
        statuses: dict[int, int | None] = {}
        if self._name == "mpi":
            assert self._launcher is not None
            status = None
            with suppress(subprocess.TimeoutExpired):
                status = self._launcher.wait(END_SECONDS)
            return {process.pid: status for process in self._processes}
        for process in self._processes:
            answer = self._ask("end", process.pid)
            statuses[process.pid] = None if answer == "None" else int(answer)
        return statuses

    def _kill(self) -> None:
        """Kill what is left, and forget all processes."""
        if self._name == "mpi":
            self._end_launcher()
        else:
            for process in self._processes:
                self._ask("kill", process.pid)
        self._processes = []

    def _end_launcher(self) -> None:
        if self._launcher is not None:
            self._launcher.terminate()  # mpirun then kills its ranks
            self._launcher.communicate(timeout=END_SECONDS)
            self._launcher = None

    def _stacks(self, processes: list[_Process]) -> str:
        """Return what the ranks have printed, after the stacks of all threads of `processes`."""
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)
            os.kill(process.pid, signal.SIGUSR1)
        time.sleep(1.0)
        return self._logs()

    def _logs(self) -> str:
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs)


def _is_kept(promise: Promise, report: Report, is_faulty: bool) -> bool:
    """Return whether a rank has got what is promised to it."""
    if report.get("outcome") != (promise.faulty if is_faulty else promise.others):
        return False
    trains_on = promise.after == ALL or (promise.after == OTHERS and not is_faulty)
    if trains_on and report["after"] != "trains on":
        return False
    return bool(report["seconds"] <= promise.seconds + NOISE)


def _text(reports: dict[int, Report]) -> str:
    return "\n".join(f"rank {rank}: {report}" for rank, report in sorted(reports.items()))


def _time_of(folder: Path, rank: int) -> float:
    """Return when the rank was ready for the fault, of time.time()."""
    ready = folder / f"trained {rank}"
    return ready.stat().st_mtime if ready.exists() else 0.0
