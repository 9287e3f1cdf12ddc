"""Progress: one line that is rewritten on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO


class ProgressLine:
    """`update` often; where the output is no terminal only the calls with `keep` are printed."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self.rewrites = self._stream.isatty()
        self._shown = False

    def update(self, text: str, *, keep: bool = False) -> None:
        """Show `text`; with `keep` it stays on the screen and the next text goes below it."""
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
        """Leave the last text on the screen and go to the next line."""
        if self._shown:
            self._end()
            self._stream.flush()

    def _end(self) -> None:
        self._stream.write("\n")
        self._shown = False
