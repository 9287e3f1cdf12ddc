"""Start the rank processes, yield their messages, and end every process."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from .config import DemoConfig
from .data import Digits
from .messages import Failure, Message
from .worker import DIGITS_FILE, run_rank

_GRACE_SECONDS = 3.0  # for further failure reports, and for a process to end


class RankFailure(RuntimeError):
    """A rank raised an error, died or timed out; the message names the rank and the cause."""


def run_ranks(config: DemoConfig, digits: Digits) -> Iterator[Message]:
    """Run all ranks of the demo.

    No process is left running when the iterator ends, raises or is closed.

    Args:
        config: The demo's configuration.
        digits: The data set.

    Yields:
        The messages of all ranks, until every rank has finished.

    Raises:
        RankFailure: A rank raised an error, died, or sent no message within the timeout.
    """
    with tempfile.TemporaryDirectory(prefix="syncnorm-demo-") as folder:
        # Pass the digits in a file: process arguments go through a pipe, and a rank that dies at
        # startup would block this process forever if they exceeded the pipe's buffer.
        digits.save(Path(folder) / DIGITS_FILE)
        processes = _RankProcesses(config, Path(folder))
        try:
            yield from processes.messages(config.timeout)
        finally:
            processes.end()


class _RankProcesses:
    def __init__(self, config: DemoConfig, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = []
        self._open: dict[Connection, int] = {}
        try:
            for rank in range(config.ranks):
                receiver, sender = context.Pipe(duplex=False)
                arguments = (rank, config, folder, sender)
                process = context.Process(target=run_rank, args=arguments, daemon=True)
                process.start()
                sender.close()
                self._processes.append(process)
                self._open[receiver] = rank
        except BaseException:
            self.end()
            raise

    def messages(self, timeout: float) -> Iterator[Message]:
        """Yield messages until all ranks have closed their connections."""
        while self._open:
            ready = self._ready(timeout)
            if not ready:
                raise RankFailure(
                    f"got no message from ranks {sorted(self._open.values())} for {timeout:g} s; "
                    "if they are only slow, use a longer --timeout"
                )
            for connection in ready:
                message = self._receive(connection)
                if isinstance(message, Failure):
                    raise RankFailure("\n".join([_text(message), *self._more_failures()]))
                if message is not None:
                    yield message

    def _ready(self, timeout: float) -> list[Connection]:
        """Wait for connections with data, in the order of the ranks; empty after a timeout."""
        ready = wait(list(self._open), timeout)
        return [connection for connection in self._open if connection in ready]

    def _receive(self, connection: Connection) -> Message | None:
        """Return the next message, a Failure if the rank died, or None if it has finished."""
        try:
            message: Message = connection.recv()
        except (EOFError, OSError):  # between messages, or within one
            return self._exit_failure(connection)
        if isinstance(message, Failure):
            self._close(connection)
        return message

    def _exit_failure(self, connection: Connection) -> Failure | None:
        rank = self._close(connection)
        process = self._processes[rank]
        process.join(_GRACE_SECONDS)
        if process.exitcode == 0:
            return None
        return Failure(rank, f"the process ended with {_exit_text(process.exitcode)}")

    def _close(self, connection: Connection) -> int:
        connection.close()
        return self._open.pop(connection)

    def _more_failures(self) -> list[str]:
        """Collect the failures of the other ranks, which may include the cause."""
        texts, deadline = [], time.monotonic() + _GRACE_SECONDS
        while self._open and (left := deadline - time.monotonic()) > 0:
            for connection in self._ready(left):
                message = self._receive(connection)
                if isinstance(message, Failure):
                    texts.append(_text(message))
        return texts

    def end(self) -> None:
        """Terminate the processes that still run, and close all connections."""
        for process in self._processes:
            if process.is_alive():
                process.terminate()
        for process in self._processes:
            process.join(_GRACE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        for connection in self._open:
            connection.close()


def _text(failure: Failure) -> str:
    return f"rank {failure.rank} failed:\n{failure.traceback.rstrip()}"


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
