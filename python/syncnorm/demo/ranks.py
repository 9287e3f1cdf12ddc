"""Starts the ranks, passes on what they say, and leaves none behind."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from .data import Digits
from .messages import Failure, Message
from .settings import Settings
from .worker import DIGITS_FILE, work

_GRACE = 3.0  # seconds in which further ranks may report the same failure


class RankFailure(RuntimeError):
    """A rank failed, died or fell silent; the text says which and why."""


def messages_of_ranks(settings: Settings, digits: Digits) -> Iterator[Message]:
    """Run the demo's ranks; yields what they say and ends when all have finished.

    Raises RankFailure; whichever way it ends, no process stays behind.
    """
    with tempfile.TemporaryDirectory(prefix="syncnorm-demo-") as folder:
        # Through a file: what a process is started with must fit a pipe, or a rank that dies while
        # it starts would leave this process writing for ever.
        digits.save(Path(folder) / DIGITS_FILE)
        group = _RankGroup(settings, Path(folder))
        try:
            yield from group.messages(settings.timeout)
        finally:
            group.end()


class _RankGroup:
    def __init__(self, settings: Settings, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = []
        self._open: dict[Connection, int] = {}
        try:
            for rank in range(settings.ranks):
                ours, theirs = context.Pipe(duplex=False)
                arguments = (rank, settings, folder, theirs)
                process = context.Process(target=work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._open[ours] = rank
        except BaseException:
            self.end()
            raise

    def messages(self, timeout: float) -> Iterator[Message]:
        while self._open:
            ready = self._ready(timeout)
            if not ready:
                raise RankFailure(
                    f"no sign of life for {timeout:g} s from ranks {sorted(self._open.values())}; "
                    "a longer wait: --timeout"
                )
            for connection in ready:
                message = self._receive(connection)
                if isinstance(message, Failure):
                    raise RankFailure("\n".join([_text(message), *self._more_failures()]))
                if message is not None:
                    yield message

    def _ready(self, timeout: float) -> list[Connection]:
        """Those with news; empty when none came within the timeout."""
        ready = wait(list(self._open), timeout)
        return [connection for connection in self._open if connection in ready]

    def _receive(self, connection: Connection) -> Message | None:
        """The next message, a Failure where a rank died without one; None: it is done."""
        try:
            message: Message = connection.recv()
        except (EOFError, OSError):  # at the end of a message, or within
            return self._ended(connection)
        if isinstance(message, Failure):
            self._close(connection)
        return message

    def _ended(self, connection: Connection) -> Failure | None:
        rank = self._close(connection)
        process = self._processes[rank]
        process.join(_GRACE)
        if process.exitcode == 0:
            return None
        return Failure(rank, f"the process ended with {_exit_text(process.exitcode)}")

    def _close(self, connection: Connection) -> int:
        connection.close()
        return self._open.pop(connection)

    def _more_failures(self) -> list[str]:
        """What the other ranks say about it: the cause may be among them."""
        texts, deadline = [], time.monotonic() + _GRACE
        while self._open and (left := deadline - time.monotonic()) > 0:
            for connection in self._ready(left):
                message = self._receive(connection)
                if isinstance(message, Failure):
                    texts.append(_text(message))
        return texts

    def end(self) -> None:
        """Stop what still runs."""
        for process in self._processes:
            if process.is_alive():
                process.terminate()
        for process in self._processes:
            process.join(_GRACE)
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
