"""What a layer holds: arrays and a communicator; how they are saved, loaded, copied and pickled."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from syncnorm import Communicator
from syncnorm._core import InvalidArgumentError

from .functions import Functions, check_communicator
from .library import A
from .results import Saved
from .state_dict import NAMES, IncompatibleKeys, load

if TYPE_CHECKING:
    from typing_extensions import Self


class KeepsState(Generic[A]):
    """The state of a layer, besides its settings.

    Copies and pickles have neither gradients nor what backward needs. A copy has the communicator
    of the original, a pickle none.
    """

    functions: ClassVar[Functions[Any]]  # of the adapter

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
    _lost_comm: str | None

    def _arrays(self) -> dict[str, A]:
        """Parameters and running statistics by name, as far as there are any."""
        arrays = {name: getattr(self, name) for name in NAMES}
        return {name: array for name, array in arrays.items() if array is not None}

    def reset_parameters(self) -> None:
        """weight 1, bias 0, and reset_running_stats()."""
        self._fill(self.weight, 1)
        self._fill(self.bias, 0)
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """running_mean 0, running_var running_var_init, num_batches_tracked 0."""
        self._fill(self.running_mean, 0)
        self._fill(self.running_var, self.running_var_init)
        self._fill(self.num_batches_tracked, 0)

    def state_dict(self, prefix: str = "") -> dict[str, Any]:
        """The layer's arrays as NumPy arrays of their own, by the names of torch with `prefix`.

        numpy.savez takes them, and a torch layer as torch.from_numpy makes tensors of them.
        """
        to_numpy = self.functions.library.to_numpy
        return {prefix + name: to_numpy(array) for name, array in self._arrays().items()}

    def load_state_dict(
        self, state: Mapping[str, Any], strict: bool = True, prefix: str = ""
    ) -> IncompatibleKeys:
        """Copies arrays into those of the layer, converting the dtype; reports as torch does.

        state: a mapping of names to arrays of any library, such as state_dict(), numpy.load of an
        .npz file, or that of torch, Chainer, MXNet, Paddle, MegEngine, Keras or Flax; further axes
        of length 1 are allowed. prefix: only names that begin with it are looked at, and what
        follows is the name; with its separator, "bn1." or "predictor/bn1/". num_batches_tracked may
        be absent, and then stays.

        Raises InvalidArgumentError for names that are missing or unknown (strict=False: they are
        reported) or have two values, and for other shapes and dtypes; nothing is changed then.
        """
        return load(self.functions.library, self._arrays(), state, strict=strict, prefix=prefix)

    @property
    def comm(self) -> Communicator | None:
        """The group; None: this rank alone.

        Raises InvalidArgumentError where a pickle has lost it.
        """
        if self._lost_comm is not None:
            raise InvalidArgumentError(
                f"comm: this layer was unpickled; it had {self._lost_comm}, which a pickle cannot"
                " hold. Set layer.comm to a communicator, or to None for this rank alone"
            )
        return self._comm

    @comm.setter
    def comm(self, comm: Communicator | None) -> None:
        if comm is not None:
            check_communicator(comm)
        self._comm, self._lost_comm = comm, None

    def __copy__(self) -> Self:
        return self._with_state(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        arrays = self._arrays()
        own = {name: self._duplicate(array, memo) for name, array in arrays.items()}
        kept = {**own, "_comm": self._comm, **self._transient()}
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

    def _transient(self) -> dict[str, Any]:
        """What copies do not take over."""
        return {"weight_grad": None, "bias_grad": None, "_outstanding": []}

    def _with_state(self, state: dict[str, Any]) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update({**state, "_outstanding": []})
        return made

    def _duplicate(self, array: Any, memo: dict[int, Any]) -> A:
        """A new array of the library with the values of this one, which may be NumPy's."""
        if id(array) not in memo:
            library = self.functions.library
            made = library.empty(array.shape, array.dtype)
            library.assign(made, array)
            memo[id(array)] = made
        found: A = memo[id(array)]
        return found

    def _fill(self, array: A | None, value: float) -> None:
        if array is not None:
            self.functions.library.assign(array, value)
