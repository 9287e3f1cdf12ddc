"""The arrays and the communicator of a layer: reset, save, load, copy and pickle."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from syncnorm import Communicator
from syncnorm._core import InvalidArgumentError
from syncnorm.tags import layer_tag, next_layer_number

from .call_arguments import check_communicator
from .channels import channel_shape
from .functions import Functions
from .library import A
from .results import Saved
from .state_dict import NAMES, IncompatibleKeys, load

if TYPE_CHECKING:
    from typing_extensions import Self

_DTYPES = ("float16", "bfloat16", "float32", "float64")


class LayerState(Generic[A]):
    """Base class with the state of a layer besides its settings.

    Copies and pickles have no gradients and no pending forward passes. A copy has the communicator
    of the original, a pickle has none.
    """

    functions: ClassVar[Functions[Any]]  # set by the adapter

    weight: A | None
    bias: A | None
    running_mean: A | None
    running_var: A | None
    num_batches_tracked: A | None
    weight_grad: A | None
    bias_grad: A | None
    running_var_init: float
    _outstanding: list[Saved[A]]
    _comm: Communicator | None
    _lost_comm: str | None  # repr of the communicator that a pickle did not keep
    _tag: int = 0  # with the number of the layer in its communicator

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0, and reset the running statistics."""
        self._fill(self.weight, 1)
        self._fill(self.bias, 0)
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Set running_mean to 0, running_var to running_var_init and num_batches_tracked to 0."""
        self._fill(self.running_mean, 0)
        self._fill(self.running_var, self.running_var_init)
        self._fill(self.num_batches_tracked, 0)

    def state_dict(self, prefix: str = "") -> dict[str, Any]:
        """Copy the layer's arrays to NumPy arrays.

        `numpy.savez` stores them; `torch.from_numpy` makes the tensors of a torch layer from them.

        Args:
            prefix: Prepended to every name, such as "bn1.".

        Returns:
            The arrays by the names of torch: weight, bias, running_mean, running_var and
            num_batches_tracked, without those that are None.
        """
        to_numpy = self.functions.library.to_numpy
        return {prefix + name: to_numpy(array) for name, array in self._arrays().items()}

    def load_state_dict(
        self, state: Mapping[str, Any], strict: bool = True, prefix: str = ""
    ) -> IncompatibleKeys:
        """Copy arrays into those of the layer, and convert their dtype.

        Args:
            state: Arrays of any library by name: `state_dict()`, `numpy.load` of an .npz file, or
                the parameters of torch, Chainer, MXNet, Paddle, MegEngine, Keras or Flax. Axes of
                length 1 may be added or missing. num_batches_tracked may be missing, and is then
                left unchanged.
            strict: Raise if names are missing or unknown. Otherwise return them.
            prefix: Use only names that start with it, such as "bn1." or "predictor/bn1/".

        Returns:
            missing_keys and unexpected_keys, as torch returns them.

        Raises:
            InvalidArgumentError: Names are missing or unknown, two names mean the same array, or a
                shape or dtype does not fit. The layer is unchanged.
            TypeError: state is no mapping, or a value is no array.
        """
        return load(self.functions.library, self._arrays(), state, strict=strict, prefix=prefix)

    @property
    def comm(self) -> Communicator | None:
        """The process group; None: this rank alone.

        Raises:
            InvalidArgumentError: The layer was unpickled, and comm has not been set since.
        """
        if self._lost_comm is not None:
            raise InvalidArgumentError(
                f"comm: this layer was unpickled without its communicator, {self._lost_comm}; set"
                " layer.comm to a communicator, or to None for this rank alone"
            )
        return self._comm

    @comm.setter
    def comm(self, comm: Communicator | None) -> None:
        if comm is not None:
            check_communicator(comm)
        self._comm, self._lost_comm = comm, None
        self._tag = 0 if comm is None else layer_tag(next_layer_number(comm))

    def __copy__(self) -> Self:
        return self._with_state(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        arrays = {name: self._duplicate(array, memo) for name, array in self._arrays().items()}
        kept = {**arrays, "_comm": self._comm, **self._transient()}
        rest = {k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k not in kept}
        return self._with_state({**rest, **kept})

    def __getstate__(self) -> dict[str, Any]:
        to_numpy = self.functions.library.to_numpy
        arrays = {name: to_numpy(array) for name, array in self._arrays().items()}
        lost = self._lost_comm if self._comm is None else repr(self._comm)
        comm = {"_comm": None, "_lost_comm": lost}
        return {**self.__dict__, **arrays, **comm, **self._transient()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name, array in self._arrays().items():
            setattr(self, name, self._duplicate(array, {}))

    def _arrays(self) -> dict[str, A]:
        """Return the parameters and running statistics that are not None, by name."""
        arrays = {name: getattr(self, name) for name in NAMES}
        return {name: array for name, array in arrays.items() if array is not None}

    def _transient(self) -> dict[str, Any]:
        """Return the initial values of the attributes that a copy does not take over."""
        return {"weight_grad": None, "bias_grad": None, "_outstanding": []}

    def _with_state(self, state: dict[str, Any]) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update({**state, "_outstanding": []})
        return made

    def _duplicate(self, array: Any, memo: dict[int, Any]) -> A:
        """Copy an array of the library or of NumPy to a new array of the library."""
        if id(array) not in memo:
            library = self.functions.library
            made = library.empty(array.shape, array.dtype)
            library.assign(made, array)
            memo[id(array)] = made
        duplicate: A = memo[id(array)]
        return duplicate

    def _empty_vector(self, num_features: int | tuple[int, ...], dtype: Any) -> A:
        """Return a new per-channel array without values."""
        try:
            array: A = self.functions.library.empty(channel_shape(num_features), dtype)
            allowed = array.dtype.name in _DTYPES
        except TypeError:
            allowed = False
        if not allowed:
            raise InvalidArgumentError(
                f"dtype: got {dtype!r}, expected float16, float32, float64 or ml_dtypes.bfloat16"
            )
        return array

    def _fill(self, array: A | None, value: float) -> None:
        if array is not None:
            self.functions.library.assign(array, value)

    def _check_accumulation(self, gradient: A | None, parameter: A | None, name: str) -> None:
        """Raise unless the gradient of a parameter can be added to this array in place."""
        if gradient is None or parameter is None:
            return
        library = self.functions.library
        array = library.as_array(gradient, name)
        if array.shape != parameter.shape or array.dtype.name not in _DTYPES:
            raise InvalidArgumentError(
                f"{name}: got shape {array.shape} and dtype {array.dtype}, expected"
                f" {parameter.shape} and one of {', '.join(_DTYPES)}, or None"
            )
        try:  # an empty part: the errors of the library, and nothing is written
            library.add(array[:0], library.empty((0, *array.shape[1:]), parameter.dtype))
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"{name}: got an array to which gradients of {parameter.dtype} cannot be added in"
                f" place, expected a writable one, or None: {error}"
            ) from error

    def _accumulate(self, gradient: A | None, more: A | None) -> A | None:
        """Return the sum of two gradients, computed in place in the first."""
        if gradient is None or more is None:
            return gradient if more is None else more
        self.functions.library.add(gradient, more)
        return gradient
