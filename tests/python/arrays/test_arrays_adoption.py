"""Which arrays syncnorm.numpy takes, and what it says to the others."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import syncnorm
from syncnorm import numpy as bn

X = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)


def test_tensors_of_torch_are_taken_in_place() -> None:
    x, mean, var = torch.from_numpy(X.copy()), torch.zeros(3), torch.ones(3)
    count, out = torch.tensor(0), torch.empty(4, 3, 5)
    y, saved = bn.forward(x, torch.ones(3), None, mean, var, num_batches_tracked=count, out=out)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, bn.forward(X, np.ones(3, np.float32))[0])
    np.testing.assert_array_equal(out, y)
    assert count == 1
    assert mean.abs().min() > 0
    dx, dweight, dbias = bn.backward(torch.ones(4, 3, 5), saved)
    assert dbias is None
    assert (dx.dtype, dweight.dtype) == (np.float32, np.float32)


def test_channels_last_tensors_of_torch_are_not_copied() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    y, saved = bn.forward(x)
    assert saved.x.ctypes.data == x.data_ptr()
    assert y.strides == saved.x.strides


class Subclass(np.ndarray):
    def transpose(self, *_: Any) -> np.ndarray:
        raise AssertionError("a method of the subclass was called")


def subclasses() -> list[np.ndarray]:
    return [np.matrix(X[0]), X.T.copy().T.view(Subclass), np.rec.array(X)]


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("index", range(3))
def test_subclasses_are_arrays(index: int) -> None:
    """What they do otherwise (a matrix has two axes for ever) does not matter."""
    x = subclasses()[index]
    y, saved = bn.forward(x)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, bn.forward(np.asarray(x))[0])
    assert type(bn.backward(x, saved).dx) is np.ndarray


def test_a_file_in_memory(tmp_path) -> None:
    mean = np.memmap(tmp_path / "mean", np.float32, "w+", shape=(3,))
    bn.forward(X, None, None, mean, np.ones(3, np.float32))
    assert mean.any()


def test_bfloat16() -> None:
    x = X.astype(ml_dtypes.bfloat16)
    y, saved = bn.forward(x, np.ones(3, ml_dtypes.bfloat16))
    assert y.dtype == x.dtype
    dx, dweight, _ = bn.backward(x, saved)
    assert (dx.dtype, dweight.dtype) == (x.dtype, x.dtype)


class Holder:
    """Has __array__, as much that can be made an array of, for a copy."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return X


@pytest.mark.parametrize(
    "value",
    [[[1.0]], 3, None, "x", Holder(), np.float32(1)],
    ids=["list", "int", "None", "str", "has __array__", "scalar"],
)
def test_what_is_no_array(value: Any) -> None:
    expected = r"x: got [\w.]+, expected a numpy.ndarray or another array in host memory"
    with pytest.raises(TypeError, match=expected):
        bn.forward(value)


class OnDevice:
    """Says with DLPack that it is on a CUDA device."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **_: Any) -> object:
        raise AssertionError("asked for memory that the host cannot reach")


class OfInterface:
    __cuda_array_interface__ = None


@pytest.mark.parametrize("x", [OnDevice(), OfInterface()])
def test_arrays_on_a_device_belong_to_the_other_adapter(x: Any) -> None:
    with pytest.raises(TypeError, match=r"x: got .* on a CUDA device use syncnorm\.cupy"):
        bn.forward(x)


NOT_IN_PLACE = {
    "requires_grad": torch.ones(4, 3, requires_grad=True),
    "sparse": torch.ones(4, 3).to_sparse(),
    "meta": torch.ones(4, 3, device="meta"),
    "bfloat16 through DLPack": torch.ones(4, 3, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", NOT_IN_PLACE)
def test_what_numpy_cannot_take_in_place(name: str) -> None:
    with pytest.raises(
        TypeError, match=r"x: got torch\.Tensor, expected an array that NumPy can use"
    ):
        bn.forward(NOT_IN_PLACE[name])


def test_a_masked_array_would_lose_its_mask() -> None:
    with pytest.raises(TypeError, match=r"x: got a masked array.* pass the argument mask"):
        bn.forward(np.ma.array(X, mask=X > 0))


DTYPES = {
    "big-endian": (X.astype(">f4"), ">f4"),
    "int32": (X.astype(np.int32), "int32"),
    "complex": (X.astype(complex), "complex128"),
    "object": (X.astype(object), "object"),
    "text": (X.astype(str), "<U"),
    "fields": (np.zeros((4, 3), [("a", "f4")]), "'a'"),
    "long double": (X.astype(np.longdouble), "float128|longdouble"),
    "float8": (X.astype(ml_dtypes.float8_e4m3fn), "float8_e4m3fn"),
}


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_that_the_core_does_not_know(name: str) -> None:
    x, message = DTYPES[name]
    with pytest.raises(
        syncnorm.InvalidArgumentError, match=f"^x: got dtype .*({message}).*expected"
    ):
        bn.forward(x)


def test_elements_at_odd_addresses() -> None:
    """With gaps they are copied; without, the caller knows better where they should be."""
    memory = np.zeros(X.nbytes + 1, np.uint8)
    x = memory[1:].view(np.float32).reshape(X.shape)
    x[...] = X
    assert not x.flags.aligned
    for arguments in ({"x": x}, {"x": X, "residual": x}, {"x": X, "out": x}):
        with pytest.raises(
            syncnorm.InvalidArgumentError, match="got an address that is not a multiple"
        ):
            bn.forward(**arguments)
    np.testing.assert_array_equal(bn.forward(x[..., ::2])[0], bn.forward(X[..., ::2])[0])
