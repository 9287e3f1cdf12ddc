"""The process of one or more ranks: `python -m faults.program KIND SOCKET FOLDER`.

It connects to the test at the socket, runs the faults that the test asks for, and sends reports.
Ranks other than those of MPI are forks of a server, which imports once what takes long.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .groups import Kind, kind_of
from .rank import Rank
from .scenarios import FAULTS, Promise

END_SECONDS = 20.0  # for the exit of a process


def main(name: str, address: str, folder: str) -> None:
    kind = kind_of(name)
    for module in kind.preload:
        importlib.import_module(module)
    ranks = _mpi_rank() if name == "mpi" else _fork_ranks()
    if ranks:
        _serve(kind, ranks, address, Path(folder))


def _mpi_rank() -> list[int]:
    from mpi4py import MPI

    return [MPI.COMM_WORLD.rank]


def _fork_ranks() -> list[int]:
    """Fork a process whenever the test asks; return its ranks there, and none in the server."""
    statuses: dict[int, int | None] = {}
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "start":
            pid = os.fork()
            if pid == 0:
                return [int(rank) for rank in arguments]
            statuses[pid] = None
            print(pid, flush=True)
            continue
        pid = int(arguments[0])
        if command == "kill" and statuses[pid] is None:
            os.kill(pid, signal.SIGKILL)
        if statuses[pid] is None:
            statuses[pid] = _status(pid)
        print(statuses[pid], flush=True)
    return []


def _status(pid: int) -> int | None:
    """Return the exit status of a child; None if it does not end in time."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)


def _serve(kind: Kind, ranks: list[int], address: str, folder: Path) -> None:
    log = (folder / f"ranks {ranks}.log").open("w")
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    faulthandler.enable(log)
    faulthandler.register(signal.SIGUSR1, log, all_threads=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    kind.prepare()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rw") as stream:
            _send(stream, {"pid": os.getpid(), "ranks": ranks})
            for line in stream:
                request = json.loads(line)
                _send(stream, _run(kind, ranks, request["fault"], Path(request["folder"])))


def _send(stream: Any, message: object) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _run(kind: Kind, ranks: list[int], name: str, folder: Path) -> dict[int, Any]:
    """Run a fault on the ranks of this process; the faulty one in the main thread, for signals."""
    fault = FAULTS[name]
    promise = fault.promises[kind.name]
    assert isinstance(promise, Promise)
    reports: dict[int, Any] = {}

    def run(index: int) -> None:
        reports[index] = Rank(kind, index, fault, promise, folder).run(fault)

    here = fault.faulty if fault.faulty in ranks else ranks[0]
    threads = [
        threading.Thread(target=run, args=(rank,), daemon=True) for rank in ranks if rank != here
    ]
    for thread in threads:
        thread.start()
    run(here)
    for thread in threads:
        thread.join()
    return reports


if __name__ == "__main__":
    main(*sys.argv[1:])
