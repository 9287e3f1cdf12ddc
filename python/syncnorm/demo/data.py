"""The handwritten digits of scikit-learn, and the order in which all runs see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images (N, 1, 8, 8) in 0..1 and their labels."""

    train_images: NDArray[np.float64]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float64]
    test_labels: NDArray[np.int64]

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Digits:
        with np.load(path) as arrays:
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})


def load_digits(seed: int) -> Digits:
    """The 1797 digits, a fifth of them held out, each class in the same proportion."""
    from sklearn.datasets import load_digits as load  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    images, labels = load(return_X_y=True)
    images = (images / 16.0).reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.2, random_state=seed, stratify=labels
    )
    return Digits(train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))


def batches(samples: int, batch: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Sample numbers of `steps` whole batches: every epoch in a new order, the rest dropped."""
    generator = np.random.default_rng(seed)
    done = 0
    while done < steps:
        order = generator.permutation(samples)
        for start in range(0, samples - batch + 1, batch):
            if done == steps:
                return
            yield order[start : start + batch]
            done += 1


def shard(batch: NDArray[np.int64], rank: int, ranks: int) -> NDArray[np.int64]:
    """This rank's equal, contiguous part of a batch."""
    size = len(batch) // ranks
    return batch[rank * size : (rank + 1) * size]
