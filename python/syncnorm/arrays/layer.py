"""SyncBatchNorm, the layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from syncnorm import Communicator
from syncnorm._core import InvalidArgumentError
from syncnorm.settings import Choices

from .call_arguments import check_flag, check_saved
from .channels import channel_axis, channel_shape
from .layer_state import LayerState
from .layout import as_axis_tuple, normalize_axes
from .library import A
from .results import Saved
from .setting_descriptor import Setting, without_defaults

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_WARN_OUTSTANDING = 256  # forward passes without a backward pass


class SyncBatchNorm(LayerState[A]):
    """Batch normalization with the statistics of the batch over all ranks of a group.

    In training the ranks all-reduce one small vector in forward and one in backward. The result is
    that of one process with the whole batch, however the batch is divided. In evaluation the
    running statistics are used, without communication.

        layer = SyncBatchNorm(64, comm=comm)
        y = layer(x)
        dx = layer.backward(dy)          # adds to layer.weight_grad and layer.bias_grad

    `copy.deepcopy` keeps the communicator. A pickle cannot hold one: set `comm` before training.
    Neither keeps gradients or forward passes that wait for their backward pass.

    Args:
        num_features: The number of channels, or a tuple with the length of each channel axis.
        comm: The process group; None: this rank alone. The layers of a communicator are numbered in
            order of creation, by which ranks notice that they are in different layers: create
            them in the same order on all ranks.
        eps: Added to the variance.
        momentum: The weight of the new batch in the running statistics; None: the average over all
            batches.
        affine: Whether there are weight and bias, in the shape of num_features.
        dtype: Of parameters and running statistics: float16, float32, float64 or
            ml_dtypes.bfloat16.
        axis: The channel axis of x, or as many axes as num_features has lengths, in their order.
            None: 1, or 1, 2, ... for several.
        track_running_stats: False: no running statistics; evaluation normalizes with the
            statistics of this rank's batch.
        weight: False: no weight.
        bias: False: no bias.
        running_var_init: The initial value of running_var.
        num_threads: CPU threads; None: the default of `forward`.
        **choices: weighting, eps_mode, variance_factor, grad_reduction, centering, activation,
            negative_slope and in_place, as in `syncnorm.Options`. With `in_place=True` y is
            written into x.

    Attributes:
        comm, eps, momentum, axis, num_threads: As the arguments, and so are the choices. They may
            be changed at any time, to the same values on all ranks.
        weight, bias: Arrays on the current device, or None.
        running_mean, running_var: Arrays on the current device, or None.
        num_batches_tracked: One int64 value, or None.
        weight_grad, bias_grad: None until a backward pass.
        training: Set by `train` and `eval`.

    Raises:
        InvalidArgumentError: A value is not allowed.
        TypeError: An argument is unknown or has a wrong type.
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
        def vector(wanted: bool) -> A | None:
            return self._empty_vector(num_features, dtype) if wanted else None

        self.num_features = num_features
        self.settings = without_defaults({"eps": eps, "momentum": momentum, **choices})
        self.axis = channel_axis(num_features, axis)
        self.running_var_init = running_var_init
        self.num_threads = num_threads
        self.training = True
        self.comm = comm
        self.weight = vector(affine and weight)
        self.bias = vector(affine and bias)
        self.running_mean = vector(track_running_stats)
        self.running_var = vector(track_running_stats)
        self.num_batches_tracked = None
        if track_running_stats:
            self.num_batches_tracked = self.functions.library.empty((), "int64")
        self.weight_grad = None
        self.bias_grad = None
        self._outstanding = []
        self.reset_parameters()

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation with mode=False, and return the layer."""
        check_flag(mode, "mode")
        self.training = mode
        return self

    def eval(self) -> Self:
        """Switch to evaluation and return the layer."""
        return self.train(False)

    def __call__(self, x: A, residual: A | None = None, mask: A | None = None) -> A:
        """Compute activation(batch_norm(x) + residual).

        In training every rank has to call it, and the layer keeps x and what else backward reads,
        until `backward` or `clear` is called. In evaluation it keeps nothing.

        Args:
            x: float16, bfloat16, float32 or float64, also empty.
            residual: In x's shape and dtype.
            mask: bool or uint8, in x's shape without the channel axes; 0: the position does not
                count in the statistics.

        Returns:
            y, in the shape, dtype and memory layout of x.

        Raises:
            Error: As `forward` of the functions raises.
            TypeError: An argument is no array of the library.
        """
        if not self.training and self.running_mean is not None:
            return self._infer(x, residual)
        y, saved = self.forward(x, residual, mask)
        if self.training:
            self._keep(saved)
        return y

    def forward(self, x: A, residual: A | None = None, mask: A | None = None) -> tuple[A, Saved[A]]:
        """Compute y as a call of the layer does, and return what backward needs.

        The layer keeps nothing. Use it if backward passes are not in reverse order, are repeated,
        are in evaluation, or do not follow.

        Args:
            x: As in a call, and so are residual and mask.

        Returns:
            y, and saved, for `backward(dy, saved)`.
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
            tag=self._tag,
            **self.settings,
        )

    def backward(self, dy: A, saved: Saved[A] | None = None) -> Any:
        """Compute the gradients of a forward pass, and add to weight_grad and bias_grad.

        It adds in place to arrays that are there, so that they may be views of one buffer. After
        training every rank has to call it. If it raises, the layer is unchanged.

        Args:
            dy: The gradient of y, in its shape and dtype.
            saved: The second result of `forward`; None: the newest call of the layer that has had
                no backward pass.

        Returns:
            dx, or (dx, dresidual) if the forward pass had a residual.

        Raises:
            InvalidArgumentError: dy has a wrong shape, dtype or device, weight_grad or bias_grad
                cannot be added to, or saved is None and no call of the layer waits for its backward
                pass.
            TypeError: dy is no array, or saved is no result of `forward`.
        """
        forward_pass = self._newest() if saved is None else saved
        check_saved(forward_pass)
        self._check_accumulation(self.weight_grad, forward_pass.weight, "weight_grad")
        self._check_accumulation(self.bias_grad, forward_pass.bias, "bias_grad")
        gradients = self.functions.backward(dy, forward_pass)
        if saved is None:
            self._outstanding.pop()
        dx, dweight, dbias = gradients
        self.weight_grad = self._accumulate(self.weight_grad, dweight)
        self.bias_grad = self._accumulate(self.bias_grad, dbias)
        return dx if gradients.dresidual is None else (dx, gradients.dresidual)

    @property
    def outstanding(self) -> int:
        """The number of training calls that have had no backward pass."""
        return len(self._outstanding)

    def clear(self) -> None:
        """Drop all calls that have had no backward pass, and free their memory."""
        self._outstanding.clear()

    def zero_grad(self) -> None:
        """Set weight_grad and bias_grad to None."""
        self.weight_grad = self.bias_grad = None

    def _newest(self) -> Saved[A]:
        if not self._outstanding:
            raise InvalidArgumentError(
                "backward: got no saved, expected a training call of the layer without a backward"
                " pass, but there is none. For evaluation, call y, saved = layer.forward(x) and"
                " layer.backward(dy, saved)"
            )
        return self._outstanding[-1]

    def _keep(self, saved: Saved[A]) -> None:
        self._outstanding.append(saved)
        if len(self._outstanding) == _WARN_OUTSTANDING:
            warnings.warn(
                f"{_WARN_OUTSTANDING} training calls of {self} have had no backward pass, and the"
                " layer keeps their inputs in memory. If none follows, call"
                " y, _ = layer.forward(x), which keeps nothing, or layer.clear()",
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

    def _check_channels(self, x: A) -> None:
        """Check x's channels in a layer without arrays, which the core could not compare with."""
        shape = getattr(x, "shape", None)
        if shape is None:
            return  # the functions raise TypeError
        channels = tuple(shape[a] for a in normalize_axes(as_axis_tuple(self.axis), len(shape)))
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
