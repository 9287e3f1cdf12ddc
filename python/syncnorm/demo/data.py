"""Load the handwritten digits of scikit-learn, and define the order in which all runs use them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images of shape (N, 1, 8, 8) with values from 0 to 1, and their labels."""

    train_images: NDArray[np.float64]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float64]
    test_labels: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Write the arrays to the npz file `path`."""
        with path.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Digits:
        """Read the arrays from the npz file `path`."""
        with np.load(path) as arrays:
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})


def load_digits(seed: int) -> Digits:
    """Return the 1797 digits, split by class: four fifths to train, one fifth to test."""
    from sklearn.datasets import load_digits as load  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    images, labels = load(return_X_y=True)
    images = (images / 16.0).reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.2, random_state=seed, stratify=labels
    )
    return Digits(train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))


def batches(samples: int, batch: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield the sample indices of `steps` batches.

    Every epoch is a new permutation; samples that do not fill a batch are dropped.

    Args:
        samples: Number of samples of the data set.
        batch: Number of samples per batch.
        steps: Number of batches.
        seed: Seed of the permutations.
    """
    generator = np.random.default_rng(seed)
    done = 0
    while done < steps:
        order = generator.permutation(samples)
        for start in range(0, samples - batch + 1, batch):
            if done == steps:
                return
            yield order[start : start + batch]
            done += 1


def shard(batch: NDArray[np.int64], rank: int, world_size: int) -> NDArray[np.int64]:
    """Return this rank's contiguous part of a batch; all parts have the same size."""
    size = len(batch) // world_size
    return batch[rank * size : (rank + 1) * size]
