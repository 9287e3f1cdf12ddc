"""Communicators of devices and arrays of the host do not go together."""

from __future__ import annotations

import numpy as np
import pytest

import syncnorm
from support.nccl_ranks import group
from syncnorm import numpy as bn


def test_arrays_of_the_host_are_refused() -> None:
    x = np.ones((2, 3), np.float32)
    y = np.zeros_like(x)
    expected = "use a threads or callback communicator"
    with group(2) as comms:
        for comm in comms:
            with pytest.raises(syncnorm.UnsupportedError, match=expected):
                bn.forward(x, comm=comm, out=y)
    assert not y.any()
