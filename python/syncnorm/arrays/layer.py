"""SyncBatchNorm, the layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from syncnorm import Communicator
from syncnorm._core import InvalidArgumentError
from syncnorm.settings import Choices

from .channels import channel_axis, channel_shape
from .forms import normalized_axes, plain_axes
from .library import A
from .results import Saved
from .setting import Setting, changed
from .state import KeepsState

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_MANY = 256  # forward passes that await their backward: time for a warning


class SyncBatchNorm(KeepsState[A]):
    """Batch normalization with statistics over all ranks of a group.

    In training the ranks exchange one small vector in forward and one in backward, and the result
    is that of one big batch, however it was divided. In evaluation the running statistics are used
    and no rank talks to another.

        layer = SyncBatchNorm(64, comm=comm)
        y = layer(x)
        dx = layer.backward(dy)          # adds to layer.weight_grad and layer.bias_grad

    num_features: how many channels, or their shape, a tuple. axis: x's channel axis, or as many as
    num_features has numbers, in the order of these; None: 1, or 1, 2, .. for a tuple.
    comm: the group, a syncnorm.Communicator; None: this rank alone.
    eps, momentum: as in torch.nn.BatchNorm2d; momentum=None averages over all batches.
    affine: weight and bias, of the shape of num_features; weight=False, bias=False: without one.
    dtype: of parameters and running statistics: float16, float32, float64 or ml_dtypes.bfloat16.
    track_running_stats=False: no running statistics; an evaluation uses those of this rank's batch.
    running_var_init: what running_var starts at.
    num_threads: CPU threads; None: see forward.
    choices: weighting, eps_mode, variance_factor, grad_reduction, centering, activation,
    negative_slope and in_place, as in syncnorm.Options. With in_place=True y takes the memory of x.

    Attributes: comm, eps, momentum, axis, num_threads and the choices, which may be changed at any
    time, alike on all ranks; weight, bias, running_mean, running_var and num_batches_tracked (one
    int64), arrays made on the current device, or None; weight_grad and bias_grad, None until a
    backward pass; training, as set by train() and eval().

    A copy (copy.deepcopy) has the same communicator. A pickle cannot hold one: a layer that had
    one trains again when its comm is set. Neither has gradients or what backward needs.

    Raises InvalidArgumentError for what is not allowed.
    """

    eps: Setting[float] = Setting()
    momentum: Setting[float | None] = Setting()
    weighting: Setting[str] = Setting()
    eps_mode: Setting[str] = Setting()
    variance_factor: Setting[str] = Setting()
    grad_reduction: Setting[str] = Setting()
    centering: Setting[str] = Setting()
    activation: Setting[str] = Setting()
    negative_slope: Setting[float] = Setting()
    in_place: Setting[bool] = Setting()

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        comm: Communicator | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        dtype: Any = "float32",
        axis: int | Sequence[int] | None = None,
        track_running_stats: bool = True,
        weight: bool = True,
        bias: bool = True,
        running_var_init: float = 1.0,
        num_threads: int | None = None,
        **choices: Unpack[Choices],
    ) -> None:
        self.num_features = num_features
        self.settings = changed({"eps": eps, "momentum": momentum, **choices})
        self.axis = channel_axis(num_features, axis)
        self.running_var_init = running_var_init
        self.num_threads = num_threads
        self.training = True
        self.comm = comm
        self.weight: A | None = self._new(dtype) if affine and weight else None
        self.bias: A | None = self._new(dtype) if affine and bias else None
        self.running_mean: A | None = self._new(dtype) if track_running_stats else None
        self.running_var: A | None = self._new(dtype) if track_running_stats else None
        self.num_batches_tracked: A | None = None
        if track_running_stats:
            self.num_batches_tracked = self.functions.library.empty((), "int64")
        self.weight_grad: A | None = None
        self.bias_grad: A | None = None
        self._outstanding: list[Saved[A]] = []
        self.reset_parameters()

    def train(self, mode: bool = True) -> Self:
        """Training, or evaluation with mode=False."""
        self.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation: the running statistics are used, and nothing is kept for backward."""
        return self.train(False)

    def __call__(self, x: A, residual: A | None = None, mask: A | None = None) -> A:
        """activation(batch_norm(x) + residual), of the shape, dtype and layout of x.

        residual, mask: as in forward of the functions. In training every rank calls it, and what
        backward needs, x above all, is kept until backward is called or clear.
        """
        if not self.training and self.running_mean is not None:
            return self._infer(x, residual)
        y, saved = self.forward(x, residual, mask)
        if self.training:
            self._keep(saved)
        return y

    def forward(self, x: A, residual: A | None = None, mask: A | None = None) -> tuple[A, Saved[A]]:
        """y, and what backward takes as `saved`: nothing is kept by the layer. Also in evaluation.

        For passes whose backward is not in reverse order, comes several times, or not at all.
        """
        training = self.training
        mean = self.running_mean
        if self.weight is None and self.bias is None and mean is None:
            self._check_channels(x)
        return self.functions.forward(
            x,
            self.weight,
            self.bias,
            mean,
            self.running_var,
            comm=self.comm if training else None,
            training=training or mean is None,
            axis=self.axis,
            residual=residual,
            mask=mask,
            num_batches_tracked=self.num_batches_tracked,
            out=x if self.in_place else None,
            num_threads=self.num_threads,
            **self.settings,
        )

    def backward(self, dy: A, saved: Saved[A] | None = None) -> Any:
        """dx; or (dx, dresidual) where the forward pass had a residual.

        It belongs to the newest call of the layer that has had none yet, or to the forward pass
        that gave `saved`. Adds to weight_grad and bias_grad, in place where they are arrays already
        (as views of a buffer of yours may be). Every rank calls it where the pass was in training.
        A call that raises leaves everything as it was.
        """
        source = self._newest() if saved is None else saved
        if not isinstance(source, Saved):
            raise TypeError(
                f"saved: got {type(saved).__name__}, expected what forward(x) gave besides y"
            )
        gradients = self.functions.backward(dy, source)
        if saved is None:
            self._outstanding.pop()
        dx, dweight, dbias = gradients
        self.weight_grad = self._sum(self.weight_grad, dweight)
        self.bias_grad = self._sum(self.bias_grad, dbias)
        return dx if gradients.dresidual is None else (dx, gradients.dresidual)

    @property
    def outstanding(self) -> int:
        """How many calls of the layer in training have had no backward yet."""
        return len(self._outstanding)

    def clear(self) -> None:
        """Forgets the calls that have had no backward, and frees what was kept for it."""
        self._outstanding.clear()

    def zero_grad(self) -> None:
        """Sets weight_grad and bias_grad to None."""
        self.weight_grad = self.bias_grad = None

    def _newest(self) -> Saved[A]:
        if not self._outstanding:
            raise InvalidArgumentError(
                "backward: there is no call of the layer in training without its backward. In"
                " evaluation nothing is kept: use y, saved = layer.forward(x), then"
                " layer.backward(dy, saved)"
            )
        return self._outstanding[-1]

    def _keep(self, saved: Saved[A]) -> None:
        self._outstanding.append(saved)
        if len(self._outstanding) == _MANY:
            warnings.warn(
                f"{_MANY} calls of {self} in training have had no backward, and their inputs are"
                " kept in memory. Where none follows use y, _ = layer.forward(x), which keeps"
                " nothing, or layer.clear()",
                RuntimeWarning,
                stacklevel=3,
            )

    def _infer(self, x: A, residual: A | None) -> A:
        y: A = self.functions.infer(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            axis=self.axis,
            residual=residual,
            out=x if self.in_place else None,
            num_threads=self.num_threads,
            **self.settings,
        )
        return y

    def _sum(self, held: A | None, more: A | None) -> A | None:
        if held is None or more is None:
            return held if more is None else more
        self.functions.library.add(held, more)
        return held

    def _new(self, dtype: Any) -> A:
        """An array with one value per channel, not yet filled."""
        library = self.functions.library
        try:
            array: A = library.empty(channel_shape(self.num_features), dtype)
            known = array.dtype.name in _DTYPES
        except TypeError:
            known = False
        if not known:
            raise InvalidArgumentError(
                f"dtype: got {dtype!r}, expected float16, float32, float64 or ml_dtypes.bfloat16"
            )
        return array

    def _check_channels(self, x: A) -> None:
        """For a layer without arrays, with whose shapes that of x would be compared."""
        shape = getattr(x, "shape", None)
        if shape is None:
            return  # no array: the functions say so
        channels = tuple(shape[a] for a in normalized_axes(plain_axes(self.axis), len(shape)))
        if channels != channel_shape(self.num_features):
            raise InvalidArgumentError(
                f"x: got shape {shape}, expected {self.num_features} on axis {self.axis}"
            )

    def __repr__(self) -> str:
        arrays = self._arrays()
        affine = "weight" in arrays or "bias" in arrays
        shown = {
            "comm": (self._lost_comm or self._comm, None),
            "affine": (affine, True),
            "dtype": (next((a.dtype.name for a in arrays.values()), "float32"), "float32"),
            "axis": (self.axis, channel_axis(self.num_features, None)),
            "track_running_stats": ("running_mean" in arrays, True),
            "weight": ("weight" in arrays, affine),
            "bias": ("bias" in arrays, affine),
        }
        unusual = {name: value for name, (value, usual) in shown.items() if value != usual}
        text = "".join(f", {k}={v!r}" for k, v in {**unusual, **self.settings}.items())
        return f"{type(self).__name__}({self.num_features!r}{text})"
