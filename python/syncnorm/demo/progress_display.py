"""Print the progress of the runs."""

from __future__ import annotations

from syncnorm._cli.progress import ProgressLine

from .messages import Progress


class ProgressDisplay:
    """Shows every progress message on a terminal, and a line per tenth of a run elsewhere."""

    def __init__(self, line: ProgressLine) -> None:
        self._line = line
        self._tenths: dict[str, int] = {}

    def show(self, progress: Progress) -> None:
        """Show one message."""
        tenth = 10 * progress.step // progress.steps
        keep = progress.new_point and self._tenths.get(progress.run, 0) != tenth
        if self._line.rewrites:
            keep = progress.step == progress.steps
        if keep:
            self._tenths[progress.run] = tenth
        self._line.update(_text(progress), keep=keep)


def _text(progress: Progress) -> str:
    latest = progress.latest
    curve = (
        f"loss {latest.loss:6.3f}  test accuracy {100 * latest.accuracy:5.1f} %"
        if latest
        else f"loss {'-':>6}  test accuracy {'-':>5}  "
    )
    return (
        f"{progress.title:<34} step {progress.step:>5}/{progress.steps}  {curve}  "
        f"{1e3 * progress.step_seconds:6.2f} ms per step"
    )
