"""Writes docs/faults.md from the table: `python -m faults.page`."""

from __future__ import annotations

from pathlib import Path

from .scenarios import FAULTS, KINDS, NotApplicable, Promise

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/faults.md"

PREFACE = """\
# Faults

What every rank gets if one rank of a group does something wrong. The tests in `tests/python/faults`
run every row, and `make faults` generates this page from their table. A test fails if the page
differs from the table.

In every row the group first trains two layers for one step. Then comes the fault. The tests check
that

- every rank gets the error of its column, within the given time after the fault. An error that
  needs no deadline comes long before the timeout of the group. On a busy machine the tests allow
  {noise:g} s more;
- every call that returns has the numbers of one process with the joined batch;
- a forward pass that raises has not written the running statistics;
- the ranks of the last column create a new group in the same processes, and train both layers for
  another step, with the right numbers;
- the processes of the ranks that are left exit with status 0;
- nothing hangs: after a deadline a test kills the ranks, and prints the stacks of all threads.

`X, then completes` is an attempt that raises X, after which the same rank goes on. See
[errors](errors.md) for the classes, [communicators](communicators.md) for the groups.
"""

# The title and the introduction of each section.
SECTIONS = {
    "threads": """\
## Threads

`thread_group`, with layers of `syncnorm.numpy`. The ranks are threads of one process.
""",
    "callback": """\
## Callbacks

`from_callback`, with layers of `syncnorm.numpy`. The callback is `SharedSum` of
`tests/python/faults/groups.py`, as an application may write it: it compares the lengths
(`ValueError`), has a deadline (`TimeoutError`), and its `abort` notifies the other ranks
(`ConnectionAbortedError`). An exception of a callback is not changed.
""",
    "gloo": """\
## torch.distributed over gloo

Layers of `syncnorm.torch` over the default group, each rank in a process. A group that one rank
destroys stays connected while a layer of that rank refers to it.
""",
    "mpi": """\
## MPI

`from_mpi`, with layers of `syncnorm.numpy`, and Open MPI. `mpirun` ends all ranks if one dies. A
rank that has failed notifies the others when it calls MPI next, in `MPI_Finalize` at the latest.
""",
    "nccl": """\
## NCCL

`from_nccl_id`, with layers of `syncnorm.cupy`. The tests run the CUDA sources on the CPU, over a
double of libnccl. The two ranks are threads of one process. NCCL does not compare lengths. After an
aborted sum the next call on its device raises `DesyncError` once, also in a new group.
""",
}

FIGURES = {
    "tests/fuzz/README.md": "fuzzing of the C interface and of the adapters",
    "tests/soak/RESULTS.md": "soak test",
}


def page(noise: float) -> str:
    """Return the text of the page; noise: seconds that a busy machine may add."""
    parts = [PREFACE.format(noise=noise)]
    parts += [_section(kind) for kind in KINDS]
    figures = [
        f"- [{path}](../{path}): {text}\n"
        for path, text in FIGURES.items()
        if (ROOT / path).exists()
    ]
    if figures:
        parts.append("## Fuzzing and soak\n\n" + "".join(figures))
    return "\n".join(parts)


def _section(kind: str) -> str:
    lines = [
        SECTIONS[kind],
        "| one rank | it gets | the other ranks get | within | afterwards train on |",
        "|---|---|---|---|---|",
    ]
    excluded: dict[str, list[str]] = {}
    for fault in FAULTS.values():
        promise = fault.promises[kind]
        if isinstance(promise, NotApplicable):
            excluded.setdefault(promise.reason, []).append(fault.name)
        else:
            lines.append(_row(fault.name, promise))
    if excluded:
        lines.append("\nNot applicable:\n")
        lines += [f"- {reason}: {'; '.join(names)}" for reason, names in excluded.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, promise: Promise) -> str:
    within = f"{promise.seconds:g} s"
    if promise.is_deadline:
        within += f" (timeout {promise.timeout:g} s)"
    cells = [name, _code(promise.faulty), _code(promise.others), within, promise.after]
    return f"| {' | '.join(cells)} |"


def _code(outcome: str) -> str:
    words = outcome.split(", then ")
    return ", then ".join(f"`{word}`" if word[0].isupper() else word for word in words)


if __name__ == "__main__":
    from .ranks import NOISE

    PAGE.write_text(page(NOISE), encoding="utf-8")
