"""Progress output on one line."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO


class ProgressLine:
    """A line that is rewritten on a terminal. Other streams get only the lines with keep=True.

    Attributes:
        rewrites: Whether the stream is a terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self.rewrites = self._stream.isatty()
        self._shown = False

    def update(self, text: str, *, keep: bool = False) -> None:
        """Replace the previous text. With `keep` the next text starts on a new line."""
        if self.rewrites:
            width = None if keep else shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{text[:width]}")
            self._shown = True
            if keep:
                self._end()
        elif keep:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line, if it shows a text."""
        if self._shown:
            self._end()
            self._stream.flush()

    def _end(self) -> None:
        self._stream.write("\n")
        self._shown = False
