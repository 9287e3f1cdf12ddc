"""Plan the training runs."""

from __future__ import annotations

import dataclasses

from .config import DemoConfig

CURVE_POINTS = 40
EARLY_STEPS = 5  # the differences are reported after this many steps and at the end
FLOAT64_STEPS = 100  # enough to distinguish rounding from a wrong formula


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run; all runs have the same network and the same samples.

    norm: "torch" or "syncnorm". single: rank 0 alone trains on the whole batch. snapshots: the
    steps after which the state is kept for comparison.
    """

    name: str
    title: str
    norm: str
    single: bool
    dtype: str
    steps: int
    snapshots: tuple[int, ...]

    def is_point(self, step: int) -> bool:
        """Return whether the curves have a point after `step` steps."""
        return step * CURVE_POINTS // self.steps != (step - 1) * CURVE_POINTS // self.steps


def plan_runs(config: DemoConfig, samples: int) -> list[Run]:
    """Return all runs in their order.

    The runs of a single process are last, because the other ranks exit before them.

    Args:
        config: The demo's configuration.
        samples: Number of training samples.
    """
    steps = config.total_steps(samples)
    float64_steps = min(steps, FLOAT64_STEPS)
    sync_title = f"syncnorm, {config.ranks} ranks"
    single_title = f"single process, batch {config.whole_batch}"

    def run(name: str, title: str, norm: str, single: bool, dtype: str) -> Run:
        length = steps if dtype == "float32" else float64_steps
        snapshots = () if name == "local" else tuple(sorted({min(EARLY_STEPS, length), length}))
        if dtype == "float64":
            title += " (float64)"
        return Run(name, title, norm, single, dtype, length, snapshots)

    return [
        run("local", f"local BatchNorm, {config.ranks} ranks", "torch", False, "float32"),
        run("syncnorm", sync_title, "syncnorm", False, "float32"),
        run("syncnorm64", sync_title, "syncnorm", False, "float64"),
        run("single", single_title, "torch", True, "float32"),
        run("single64", single_title, "torch", True, "float64"),
    ]
