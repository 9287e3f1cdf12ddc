"""Two processes that share the device, over gloo, equal one process on the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import training_runs as runs
from ranks import run_ranks
from torch import nn

WORKER = Path(__file__).parent / "two_processes_worker.py"
RANKS = 2


@pytest.fixture(scope="module", name="results")
def results_of_all_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_ranks(WORKER, RANKS, folder, {"GLOO_SOCKET_IFNAME": "lo"}, timeout=150)


def single_process(samples: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model: nn.Module = runs.convolutional_network(dtype)
    runs.train(model, runs.batches((3, 9, 9), samples, dtype))
    return model.state_dict()


@pytest.mark.parametrize("sizes", ["EQUAL", "UNEQUAL", "WITH_EMPTY"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_training_equals_one_process(
    results: list[dict[str, Any]], sizes: str, layout: str
) -> None:
    states = [result[f"{sizes} {layout}"] for result in results]
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    expected = single_process(sum(getattr(runs, sizes)[RANKS]), torch.float64)
    torch.testing.assert_close(states[0], expected, rtol=1e-9, atol=1e-9)


def test_statistics_are_the_same_to_the_bit(results: list[dict[str, Any]]) -> None:
    first, second = (result["statistics of 16 and 32 bits"] for result in results)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert (first["running_var"] != 1).all()


def test_ranks_in_different_calls_get_nan_and_an_error_later(
    results: list[dict[str, Any]],
) -> None:
    for result in results:
        all_nan, running_var, error, next_is_finite = result["different options"]
        assert all_nan
        assert (running_var == 1).all()
        assert error.startswith("DesyncError: ")
        assert next_is_finite
