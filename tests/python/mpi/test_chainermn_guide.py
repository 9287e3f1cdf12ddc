"""docs/chainermn.md: its program runs on ranks of MPI, and trains as ChainerMN's formulas do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from mpi_worlds import mpirun

from support.chainermn import MultiNodeBatchNormalization

GUIDE = Path(__file__).parents[3] / "docs" / "chainermn.md"
FEATURES, HIDDEN, CLASSES, BATCH, STEPS = 4, 8, 3, 16, 5
RANKS = 2
# float32 beside float64, over the steps of the training.
BOUND = 2e-5

Arrays = dict[str, Any]


def snapshot() -> Arrays:
    """What chainer.serializers.save_npz writes for the guide's model."""
    random = np.random.default_rng(8)
    arrays = {
        "predictor/l1/W": random.standard_normal((HIDDEN, FEATURES)),
        "predictor/bn1/gamma": random.uniform(0.5, 1.5, HIDDEN),
        "predictor/bn1/beta": random.uniform(-1, 1, HIDDEN),
        "predictor/bn1/avg_mean": random.standard_normal(HIDDEN),
        "predictor/bn1/avg_var": random.uniform(1, 2, HIDDEN),
        "predictor/bn1/N": np.array(0),
        "predictor/l2/W": random.standard_normal((CLASSES, HIDDEN)),
        "predictor/l2/b": random.standard_normal(CLASSES),
    }
    kinds = {"predictor/bn1/N": "int64"}
    return {name: array.astype(kinds.get(name, "float32")) for name, array in arrays.items()}


def batches(rank: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The guide's, in float64."""
    random = np.random.default_rng(rank)
    return [
        (
            random.standard_normal((BATCH, FEATURES)).astype("float32").astype(float),
            random.integers(CLASSES, size=BATCH),
        )
        for _ in range(STEPS)
    ]


def trained_by_formulas(ranks: int) -> Arrays:
    """All ranks in turn, by what Chainer's functions compute."""
    given = {name: array.astype(float) for name, array in snapshot().items()}
    w1, w2, b2 = (given[f"predictor/{name}"] for name in ("l1/W", "l2/W", "l2/b"))
    link = MultiNodeBatchNormalization(HIDDEN, ranks)
    link.gamma, link.beta = given["predictor/bn1/gamma"], given["predictor/bn1/beta"]
    link.avg_mean = [given["predictor/bn1/avg_mean"]] * ranks
    link.avg_var = [given["predictor/bn1/avg_var"]] * ranks
    data = [batches(rank) for rank in range(ranks)]
    for step in range(STEPS):
        x, t = zip(*(data[rank][step] for rank in range(ranks)), strict=True)
        h = [np.maximum(y, 0) for y in link.forward([each @ w1.T for each in x])]
        dy = [softmax(each @ w2.T + b2) - np.eye(CLASSES)[k] for each, k in zip(h, t, strict=True)]
        dy = [each / BATCH for each in dy]
        pairs = list(zip(dy, h, strict=True))
        gx, ggamma, gbeta = link.backward([(g @ w2) * (each > 0) for g, each in pairs])
        gradients = [np.mean([g.T @ each for g, each in zip(gx, x, strict=True)], axis=0)]
        gradients += [ggamma, gbeta, np.mean([g.T @ each for g, each in pairs], axis=0)]
        gradients += [np.mean([g.sum(axis=0) for g in dy], axis=0)]
        for parameter, gradient in zip((w1, link.gamma, link.beta, w2, b2), gradients, strict=True):
            parameter[...] = parameter - 0.1 * gradient
    norm = {"weight": link.gamma, "bias": link.beta, "num_batches_tracked": STEPS}
    norm |= {"running_mean": link.avg_mean[0], "running_var": link.avg_var[0]}
    return {"l1/W": w1, "l2/W": w2, "l2/b": b2} | {f"bn1/{name}": a for name, a in norm.items()}


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_the_guide_trains_as_chainermn(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    program = tmp_path / "train.py"
    into_folder = f"import os\nos.chdir({str(tmp_path)!r})\n"
    checks = "assert model.bn1.num_batches_tracked == 5 and model.bn1.outstanding == 0\n"
    program.write_text(into_folder + "\n".join(blocks) + checks, encoding="utf-8")
    np.savez(tmp_path / "snapshot.npz", **snapshot())
    done = mpirun(RANKS, str(program))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    expected = trained_by_formulas(RANKS)
    with np.load(tmp_path / "trained.npz") as trained:
        assert sorted(trained) == sorted(expected)
        for name, array in expected.items():
            size = max(1.0, float(np.abs(array).max()))
            np.testing.assert_allclose(trained[name], array, rtol=0, atol=BOUND * size)
