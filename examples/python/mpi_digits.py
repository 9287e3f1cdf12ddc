"""Train on handwritten digits over MPI: every rank has a part of each batch, and the result is that
of one process with the whole batches.

    python examples/python/mpi_digits.py
    mpirun -n 4 python examples/python/mpi_digits.py
    mpirun -n 4 python examples/python/mpi_digits.py --local    # not synchronized, to compare

On CUDA devices, one for each rank, with one import changed: from syncnorm import cupy as bn.
Needs scikit-learn, mpi4py with an MPI, and NumPy or CuPy.
"""

from __future__ import annotations

import argparse

import numpy as np
from mpi4py import MPI
from sklearn.datasets import load_digits

import syncnorm.comm
from syncnorm import numpy as bn

xp = bn.xp  # numpy or cupy: the network's arrays. The data set stays NumPy's, in the host's memory.

PIXELS, HIDDEN, CLASSES = 64, 32, 10
LEARNING_RATE, MOMENTUM = 0.05, 0.9
TEST_SAMPLES = 360


class Network:
    """linear, synchronized batch norm with ReLU, linear."""

    def __init__(self, comm, dtype):
        random = np.random.default_rng(0)  # the same parameters on every rank
        first = random.standard_normal((PIXELS, HIDDEN)) / PIXELS**0.5
        second = random.standard_normal((HIDDEN, CLASSES)) / HIDDEN**0.5
        self.first = xp.asarray(first, dtype)  # no bias: batch norm would subtract it again
        self.norm = bn.SyncBatchNorm(HIDDEN, comm=comm, dtype=dtype, activation="relu")
        self.second = xp.asarray(second, dtype)
        self.bias = xp.zeros(CLASSES, dtype)

    def parameters(self):
        return [self.first, self.norm.weight, self.norm.bias, self.second, self.bias]

    def __call__(self, x):
        self.x = x
        self.hidden = self.norm(x @ self.first)
        return self.hidden @ self.second + self.bias

    def backward(self, dlogits):
        """The gradients of the parameters, as far as they come from this rank's samples."""
        self.norm.zero_grad()
        dx = self.norm.backward(dlogits @ self.second.T)
        return [
            self.x.T @ dx,
            self.norm.weight_grad,
            self.norm.bias_grad,
            self.hidden.T @ dlogits,
            dlogits.sum(axis=0),
        ]

    def save(self, path, **more):
        own = {"first": self.first, "second": self.second, "bias": self.bias}
        own = {name: bn.to_numpy(array) for name, array in own.items()}
        np.savez(path, **own, **self.norm.state_dict(prefix="norm."), **more)


def cross_entropy(logits, targets, batch_size):
    """This rank's part of the mean over the whole batch, and its gradient."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    return -(targets * log_p).sum() / batch_size, (xp.exp(log_p) - targets) / batch_size


def sum_over_ranks(world, arrays):
    """The sums of the arrays over all ranks, by one MPI call in the host's memory."""
    flat = bn.to_numpy(xp.concatenate([array.ravel() for array in arrays]))
    world.Allreduce(MPI.IN_PLACE, flat)
    parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
    return [xp.asarray(p).reshape(a.shape) for p, a in zip(parts, arrays, strict=True)]


def train(world, network, images, targets, settings):
    """The mean loss of each step."""
    random = np.random.default_rng(1)  # every rank draws the same order
    parameters = network.parameters()
    velocities = [xp.zeros_like(parameter) for parameter in parameters]
    losses = []
    for _ in range(settings.epochs):
        order = random.permutation(len(images))
        for start in range(0, len(order), settings.batch):
            batch = order[start : start + settings.batch]
            # The parts differ in size, and of a small last batch some ranks get nothing. They take
            # part in the step all the same, for the sums in it need every rank.
            mine = np.array_split(batch, world.size)[world.rank]
            logits = network(xp.asarray(images[mine]))
            loss, dlogits = cross_entropy(logits, xp.asarray(targets[mine]), len(batch))
            *gradients, loss = sum_over_ranks(world, [*network.backward(dlogits), loss])
            for parameter, velocity, gradient in zip(
                parameters, velocities, gradients, strict=True
            ):
                velocity[...] = MOMENTUM * velocity + gradient
                parameter[...] -= LEARNING_RATE * velocity
            losses.append(float(loss))
    return losses


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=64, help="samples of all ranks together")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--local", action="store_true", help="every rank normalizes by itself")
    parser.add_argument("--save", metavar="NPZ", help="write the network and the losses there")
    settings = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(2).permutation(len(images))
    images, labels = (images[order] / 16).astype(settings.dtype), labels[order]
    targets = np.eye(CLASSES, dtype=settings.dtype)[labels]

    world = MPI.COMM_WORLD
    device = bn.select_device(world.Split_type(MPI.COMM_TYPE_SHARED).rank)
    with syncnorm.comm.from_mpi(world, device=device) as comm:
        network = Network(None if settings.local else comm, settings.dtype)
        losses = train(world, network, images[TEST_SAMPLES:], targets[TEST_SAMPLES:], settings)

    network.norm.eval()  # normalize by the running statistics, which need no other rank
    found = bn.to_numpy(network(xp.asarray(images[:TEST_SAMPLES]))).argmax(axis=1)
    accuracy = (found == labels[:TEST_SAMPLES]).mean()
    if world.rank == 0:
        print(f"ranks: {world.size}, loss: {losses[0]:.4f} ... {losses[-1]:.4f}, ", end="")
        print(f"test accuracy: {accuracy:.1%}")
        if settings.save:
            network.save(settings.save, losses=losses)


if __name__ == "__main__":
    main()
