"""The table of faults: what the ranks do, and what each kind of group promises.

A fault is a function of a Rank that every rank calls. `rank.faulty` tells the rank that does the
wrong thing. Its promises, one for each kind of group, are those of docs/faults.md.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .rank import PATIENT, Rank

DESYNC = "DesyncError"
TIMED_OUT = "CommunicatorTimeoutError"
INTERNAL = "InternalError"
REFUSED = "InvalidArgumentError"
UNSUPPORTED = "UnsupportedError"
GONE = "RankLostError"
# The errors of the callback of these tests.
TOLD, LATE, LENGTHS = "ConnectionAbortedError", "TimeoutError", "ValueError"
COMPLETES = "completes"
KILLED = "is killed"
EXITS = "exits"
JOB_ENDS = "is ended by mpirun"

SHORT = 4.0  # seconds: the timeout of groups whose errors come from it

ALL, OTHERS, NONE = "all ranks", "the other ranks", "none"
THREADS, CALLBACK, GLOO, MPI, NCCL = KINDS = ("threads", "callback", "gloo", "mpi", "nccl")


@dataclass(frozen=True)
class Promise:
    """What the ranks of one kind of group get.

    Attributes:
        faulty, others: The class of the first error of the faulty rank and of the other ranks, or
            COMPLETES and the like. Refused attempts come before it.
        seconds: From the fault to the last error.
        timeout: Of the group.
        after: The ranks that train on in a new group of the same processes.
    """

    faulty: str
    others: str
    seconds: float = 1.0
    timeout: float = PATIENT
    after: str = ALL

    @property
    def is_deadline(self) -> bool:
        """Whether an error comes from the timeout."""
        return self.timeout != PATIENT


@dataclass(frozen=True)
class NotApplicable:
    reason: str


@dataclass(frozen=True)
class Fault:
    """One row of the matrix.

    Attributes:
        name: The rest of a sentence about the faulty rank.
        run: What every rank does.
        promises: By kind of group.
        faulty: The faulty rank.
    """

    name: str
    run: Callable[[Rank], None]
    promises: dict[str, Promise | NotApplicable]
    faulty: int = 1


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, every: Promise | NotApplicable, *arguments: Any, faulty: int = 1, **kinds: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a row to the table.

    Args:
        name: Its name.
        every: The promise of the kinds that are not among `kinds`.
        *arguments: Passed to the function after the rank.
        faulty: The faulty rank.
        **kinds: Other promises, by kind of group.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        def run(rank: Rank) -> None:
            function(rank, *arguments)

        FAULTS[name] = Fault(name, run, dict.fromkeys(KINDS, every) | kinds, faulty)
        return function

    return add


def at_once(faulty: str, others: str | None = None, after: str = ALL) -> Promise:
    return Promise(faulty, others or faulty, after=after)


def at_deadline(
    faulty: str, others: str = TIMED_OUT, after: str = ALL, more: float = 1.0
) -> Promise:
    return Promise(faulty, others, SHORT + more, SHORT, after)


def gloo_loss(faulty: str, after: str = ALL) -> Promise:
    """The ranks learn of it through the store, and wait for the positions of all ranks."""
    return Promise(faulty, GONE, 8.0, after=after)


# The ranks exchange their positions through the store, for up to 5 s.
gloo_deadline = functools.partial(at_deadline, more=6.0)


SHARED = NotApplicable("the ranks are threads of one process")
ARRAYS = NotApplicable("layers of arrays have no such option")

# ---------------------------------------------------------------------- ranks in different calls


@fault("skips a layer", at_once(DESYNC))
def skips_a_layer(rank: Rank) -> None:
    for layer in rank.layers[1:] if rank.faulty else rank.layers:
        rank.forward(layer)


@fault("calls a layer twice", at_once(DESYNC))
def calls_a_layer_twice(rank: Rank) -> None:
    first, second = rank.layers
    rank.forward(first)
    rank.forward(first if rank.faulty else second)


@fault("swaps two layers", at_once(DESYNC))
def swaps_two_layers(rank: Rank) -> None:
    for layer in reversed(rank.layers) if rank.faulty else rank.layers:
        rank.forward(layer)


@fault("runs two backward passes in another order", at_once(DESYNC))
def swaps_two_backward_passes(rank: Rank) -> None:
    for layer in rank.layers:
        rank.forward(layer)
    for layer in rank.layers if rank.faulty else reversed(rank.layers):
        rank.backward(layer)


@fault("runs the backward pass of an earlier call of the layer", at_once(DESYNC))
def runs_an_earlier_backward_pass(rank: Rank) -> None:
    layer = rank.layers[0]
    rank.forward(layer)
    rank.forward(layer)
    rank.backward(layer, 0 if rank.faulty else -1)


@fault(
    "runs a forward pass while the others run a backward pass", at_once(DESYNC),
    callback=at_once(LENGTHS), nccl=at_deadline(TIMED_OUT),
)  # fmt: skip
def forward_against_backward(rank: Rank) -> None:
    layer = rank.layers[0]
    rank.forward(layer)
    if rank.faulty:
        rank.forward(layer)
    else:
        rank.backward(layer)


def _one_layer(rank: Rank, usual: dict[str, Any], other: dict[str, Any]) -> None:
    layer = rank.new_layer(**(other if rank.faulty else usual))
    rank.forward(layer)
    rank.backward(layer)


for _name, _usual, _other in (
    ("number of channels", {}, {"channels": 6}),
    ("number of channels, beyond one message", {"channels": 300}, {"channels": 2000}),
):
    fault(
        f"has another {_name}", at_once(DESYNC), _usual, _other,
        callback=at_once(LENGTHS), nccl=at_deadline(TIMED_OUT),
    )(_one_layer)  # fmt: skip
for _name, _usual, _other in (
    ("eps", {}, {"eps": 1e-3}),
    ("weighting", {}, {"weighting": "equal"}),
    ("activation", {}, {"activation": "relu"}),
):
    fault(f"has another {_name}", at_once(DESYNC), _usual, _other)(_one_layer)
fault("has another dtype", at_once(COMPLETES), {}, {"dtype": "float16"})(_one_layer)
fault(
    "has float64 input, which centers", at_once(DESYNC), {}, {"dtype": "float64"},
    nccl=at_deadline(TIMED_OUT, DESYNC),
)(_one_layer)  # fmt: skip
fault("has another layout", at_once(COMPLETES), {}, {"layout": "last"})(_one_layer)
fault(
    "has nothing that requires a gradient", ARRAYS, {}, {"requires_grad": False},
    gloo=at_once(COMPLETES),
)(_one_layer)  # fmt: skip


@fault(
    "evaluates while the others train", at_deadline(COMPLETES),
    callback=at_deadline(COMPLETES, LATE), gloo=gloo_deadline(COMPLETES),
)  # fmt: skip
def evaluates(rank: Rank) -> None:
    if rank.faulty:
        for layer in rank.layers:
            rank.evaluate(layer)
        rank.wait_for_the_others()
    else:
        rank.forward(rank.layers[0])


@fault("evaluates one layer, and trains the next", at_once(DESYNC))
def evaluates_one_layer(rank: Rank) -> None:
    first, second = rank.layers
    if rank.faulty:
        rank.evaluate(first)
    else:
        rank.forward(first)
    rank.forward(second)


# ------------------------------------------------------------------------- ranks that end or wait

FORWARD, BACKWARD = "forward", "backward"
BEFORE, INSIDE, AFTER = "before", "inside", "after"


def _killed(rank: Rank, of: str, moment: str) -> None:
    layer, following = rank.layers
    if of == BACKWARD:
        rank.forward(layer)
    call = rank.forward if of == FORWARD else rank.backward
    if moment == BEFORE and rank.faulty:
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == INSIDE and rank.faulty:
        rank.soon(lambda: os.kill(os.getpid(), signal.SIGKILL))
    if moment == INSIDE and rank.is_last:
        time.sleep(1.0)  # so that the killed rank and another one wait for this one
    call(layer)
    if moment == AFTER and rank.faulty:
        os.kill(os.getpid(), signal.SIGKILL)
    rank.forward(following)


for _of in (FORWARD, BACKWARD):
    for _moment in (BEFORE, INSIDE, AFTER):
        fault(
            f"is killed {_moment} its {_of} pass", SHARED, _of, _moment,
            gloo=gloo_loss(KILLED, OTHERS),
            mpi=Promise(KILLED, JOB_ENDS, 6.0, after=NONE),
        )(_killed)  # fmt: skip


def _paused(rank: Rank, seconds: float) -> None:
    if rank.faulty:
        rank.pause(seconds)
    for layer in rank.layers:
        rank.forward(layer)


fault("is stopped for less than the timeout", Promise(COMPLETES, COMPLETES, 2.0), 1.0)(_paused)
fault(
    "is stopped for longer than the timeout", at_deadline(TIMED_OUT, more=2.0), SHORT + 1,
    callback=at_deadline(LATE, LATE, more=2.0), gloo=gloo_deadline(TIMED_OUT),
    mpi=at_deadline(GONE, more=2.0), nccl=at_deadline(TIMED_OUT, more=SHORT + 2),
)(_paused)  # fmt: skip
fault(
    "hosts the store and is stopped for longer than the timeout",
    NotApplicable("no rank hosts a store"), SHORT + 1, faulty=0, gloo=gloo_deadline(GONE),
)(_paused)  # fmt: skip


@fault(
    "raises between two calls", at_once("ValueError", INTERNAL),
    callback=at_once("ValueError", TOLD), gloo=gloo_deadline("ValueError"),
    mpi=at_once("ValueError", GONE), nccl=at_deadline("ValueError"),
)  # fmt: skip
def raises(rank: Rank) -> None:
    rank.forward(rank.layers[0])
    if rank.faulty:
        time.sleep(0.2)  # the others wait in the next call
        raise ValueError("the data loader failed")
    rank.forward(rank.layers[1])


@fault(
    "gets Ctrl-C while it waits", at_once("KeyboardInterrupt", GONE),
    threads=at_once("KeyboardInterrupt", INTERNAL), callback=at_once("KeyboardInterrupt", TOLD),
    gloo=gloo_loss("KeyboardInterrupt"),
    nccl=at_deadline("KeyboardInterrupt"),
)  # fmt: skip
def is_interrupted(rank: Rank) -> None:
    if not rank.faulty:
        rank.wait("interrupted")
        for layer in rank.layers:
            rank.forward(layer)
        return
    rank.soon(lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        rank.forward(rank.layers[0])
    finally:
        rank.tell("interrupted")


@fault(
    "exits while a thread of it waits in a call", gloo_loss(EXITS, OTHERS),
    threads=at_once(EXITS, EXITS, NONE), callback=at_once(EXITS, EXITS, NONE),
    mpi=at_once(EXITS, GONE, OTHERS), nccl=at_once(EXITS, EXITS, NONE),
)  # fmt: skip
def exits(rank: Rank) -> None:
    if rank.faulty:
        with rank.in_thread(lambda: rank.forward(rank.layers[0])):
            time.sleep(0.4)
            rank.tell("exits")
            sys.exit(0)
    rank.wait("exits")
    for layer in rank.layers:
        rank.forward(layer)


@fault(
    "forks, and the child uses the group", at_once("UnsupportedError, then completes", COMPLETES)
)
def forks(rank: Rank) -> None:
    if rank.faulty:
        rank.attempt_in_child(lambda: rank.forward(rank.layers[0]))
    for layer in rank.layers:
        rank.forward(layer)


# ----------------------------------------------------------------------------- wrong use of a group


@fault(
    "closes its group twice", at_once(COMPLETES),
    gloo=NotApplicable("destroy_process_group is a function of torch"),
)  # fmt: skip
def closes_twice(rank: Rank) -> None:
    rank.group.close()
    rank.group.close()


@fault(
    "uses a group that it has closed", at_once(REFUSED),
    gloo=at_once(COMPLETES),  # torch keeps a group that is referenced
)  # fmt: skip
def uses_a_closed_group(rank: Rank) -> None:
    rank.forward(rank.layers[0])
    rank.meet("used")
    rank.group.close()
    rank.meet("closed")
    rank.forward(rank.layers[0])


@fault(
    "closes its group while the others continue", at_once(COMPLETES, GONE),
    callback=at_deadline(COMPLETES, LATE), gloo=gloo_deadline(COMPLETES),
    mpi=at_deadline(COMPLETES), nccl=at_deadline(COMPLETES),
)  # fmt: skip
def closes_early(rank: Rank) -> None:
    rank.forward(rank.layers[0])
    rank.meet("used")
    if rank.faulty:
        rank.group.close()
        rank.wait_for_the_others()
    else:
        rank.forward(rank.layers[1])


@fault(
    "uses its group in two threads", at_once(f"{REFUSED}, then completes", COMPLETES),
    nccl=NotApplicable("a call returns when its work is enqueued"),
)  # fmt: skip
def two_threads(rank: Rank) -> None:
    first, second = rank.layers
    if not rank.faulty:
        rank.wait("refused")
        rank.forward(first)
        return
    with rank.in_thread(lambda: rank.forward(first)):
        time.sleep(0.5)
        rank.attempt(lambda: rank.forward(second))
        rank.tell("refused")


RETRIES = at_once(f"{REFUSED}, then completes", COMPLETES)


@fault("passes an input of a wrong shape, then the right one", RETRIES)
def wrong_input(rank: Rank) -> None:
    layer = rank.layers[0]
    if rank.faulty:
        rank.attempt(lambda: layer.forward(rank.batch("wrong", layer.channels + 1)))
    rank.forward(layer)
    rank.backward(layer)


@fault("passes running statistics of a wrong shape, then the right ones", RETRIES)
def wrong_statistics(rank: Rank) -> None:
    layer = rank.layers[0]
    if rank.faulty:
        with layer.wrong_statistics():
            rank.attempt(lambda: layer.forward(rank.batch("wrong", layer.channels)))
    rank.forward(layer)
    rank.backward(layer)


@fault(
    "passes a gradient of a wrong shape, then the right one", RETRIES,
    gloo=NotApplicable("autograd compares the shapes before it calls the layer"),
)  # fmt: skip
def wrong_gradient(rank: Rank) -> None:
    layer = rank.layers[0]
    rank.forward(layer)
    if rank.faulty:
        rank.attempt(lambda: layer.backward(rank.batch("wrong", layer.channels + 1), -1))
    rank.backward(layer)
