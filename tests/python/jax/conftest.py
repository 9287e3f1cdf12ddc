"""Four CPU devices for JAX, in every process that runs these tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# The oldest JAX that syncnorm.jax runs with needs a newer Python than syncnorm does.
if sys.version_info < (3, 11):
    collect_ignore_glob = ["test_*.py"]
else:
    import jax

    sys.path.insert(0, str(Path(__file__).parent))
    # On a busy machine a device may be late; by default XLA waits 40 seconds and ends the process.
    patience = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {patience}"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)

    @pytest.fixture(params=[False, True], ids=["without x64", "with x64"])
    def x64(request: pytest.FixtureRequest):
        """Every test that asks for it runs in both modes of JAX."""
        with jax.enable_x64(request.param):
            yield request.param
