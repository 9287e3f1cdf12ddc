"""
The core of syncnorm: the C interface of syncnorm.h as functions of arrays.

An array argument is an Array, or an object of a type with DLPack's C exchange table
(__dlpack_c_exchange_api__), such as a torch.Tensor. Arguments with the default None are optional.
The functions do not copy or convert arrays, and do not synchronize streams. They release the GIL
while they compute or wait.

Arguments that several functions share:
  options    Options; the same on all ranks, except momentum and variance_factor.
  x          (N, C, *spatial), float16, bfloat16, float32 or float64, dense, channels first or
             channels last according to its strides.
  y, residual, dy, dx, dresidual
             Shape, dtype and layout of x.
  weight, bias, running_mean, running_var, dweight, dbias
             (C,), contiguous, any mix of float16, bfloat16 and float32; float32 or float64 if x is
             float64.
  wire, total, center_wire, center_total
             float64, one axis, contiguous, at least as long as sizes(x, options) states; the
             functions use the first values. total is the sum of the wires of group_size ranks.
  saved      float64, (sizes(x, options).saved,), contiguous.
  num_batches_tracked
             One int64 value.
  mask       Shape of x without axis 1, uint8 or bool; 0 excludes a position from the statistics.
  workspace  At least sizes(x, options).workspace bytes, 64-byte aligned, any content. None
             allocates it for the duration of the call, on the CPU only.
  control    None or, on a CUDA device, CONTROL_SIZE bytes, 64-byte aligned. The caller zeroes it
             once and uses it for calls on one stream only. Every call leaves it zero. It saves a
             memset per pass.
  num_threads
             Number of CPU threads, >= 1. The result has the same bits for any number.
  stream     cudaStream_t as an integer; 0 on the CPU.
  status     None or one int32 value, which the call sets if the ranks disagree. For pinned host
             memory pass an Array on the CUDA device.
  tag        Identifies the call, so that ranks in different calls detect it: the layer in the high
             32 bits, the forward pass in the low 32 bits; 0 for none.

Errors that all functions raise before they write:
  ArgumentTypeError      An argument is not an array.
  InvalidArgumentError   A shape, dtype, device, length, layout or value is wrong.
  UnsupportedError       This build does not support the device.
Errors of the computation:
  CudaError              The CUDA runtime reported an error.
  DesyncError            The ranks are in different calls. On a CUDA device the call does not raise:
                         it sets status, and the outputs are NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any, overload


class Array:
    """
    A view of memory that another object owns.

    Args:
        pointer: Address of the first element.
        shape: One integer per axis.
        strides_in_elements: One integer per axis.
        dtype: 'float16', 'bfloat16', 'float32', 'float64', 'int64', 'int32', 'uint8' or 'bool'.
        device: 'cpu' or 'cuda'.
        device_index: CUDA device index.
        read_only: Reject the array as an output.
        owner: Object that the Array keeps alive. Without one the caller keeps the memory alive.
        buffer: Object with the buffer protocol, in place of pointer, device and owner. Its first
            element is the pointer. The Array holds the export, and is read-only if the buffer is.

    Raises:
        InvalidArgumentError: Unknown dtype or device, a negative size, or lengths that differ.
        ArgumentTypeError: buffer does not have the buffer protocol.
    """

    @overload
    def __init__(self, pointer: int, shape: Sequence[int], strides_in_elements: Sequence[int], dtype: str, device: str = 'cpu', device_index: int = 0, *, read_only: bool = False, owner: object | None = None) -> None: ...

    @overload
    def __init__(self, buffer: object, shape: Sequence[int], strides_in_elements: Sequence[int], dtype: str) -> None: ...

    def overlaps(self, other: Array) -> bool:
        """
        Return whether the address ranges of two arrays overlap.

        A range extends from the lowest to the highest element of an array.
        """

    def __repr__(self) -> str: ...

class Options:
    """
    Options of the computation. Immutable, comparable, hashable, picklable.

    All but momentum and variance_factor must be the same on all ranks.

    Args:
        eps: Added to the variance; finite, >= 0.
        momentum: running = (1 - momentum)*running + momentum*batch; 0..1, or None for the average over
            all batches.
        weighting: Weight of a rank: 'count' (number of its values, as in one big batch), 'equal' or
            'batch' (number of its samples).
        eps_mode: 'add' (var + eps) or 'max' (max(var, eps)).
        variance_factor: Factor of running_var: 'unbiased', 'biased', 'unbiased_local' or
            'unbiased_rank'.
        grad_reduction: Reduction of dweight and dbias over the ranks: 'local', 'sum' or 'mean'.
        centering: One more small all-reduce for the accuracy of the variance: 'auto' (float64 x only),
            'on' or 'off'.
        activation: 'identity', 'relu', 'leaky_relu' or 'elu'.
        negative_slope: Slope of 'leaky_relu'; finite, >= 0.
        in_place: y may be the memory of x, and the backward functions take y as their x. Requires the
            activation 'identity', 'elu' or 'leaky_relu' with negative_slope from 2^-126 to 2^126, and
            no residual. A weight closer to 0 than 2^-12 is applied as 2^-12 with its sign.

    Raises:
        InvalidArgumentError: A value is not allowed.
    """

    def __init__(self, *, eps: float = 1e-05, momentum: float | None = 0.1, weighting: str = 'count', eps_mode: str = 'add', variance_factor: str = 'unbiased', grad_reduction: str = 'local', centering: str = 'auto', activation: str = 'identity', negative_slope: float = 0.01, in_place: bool = False) -> None: ...

    def __repr__(self) -> str: ...

    def __eq__(self, other: object, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __getstate__(self) -> dict[str, float | str | None]: ...

    def __setstate__(self, state: dict[str, float | str | None], /) -> None: ...

    @property
    def eps(self) -> float: ...

    @property
    def momentum(self) -> float | None: ...

    @property
    def weighting(self) -> str: ...

    @property
    def eps_mode(self) -> str: ...

    @property
    def variance_factor(self) -> str: ...

    @property
    def grad_reduction(self) -> str: ...

    @property
    def centering(self) -> str: ...

    @property
    def activation(self) -> str: ...

    @property
    def negative_slope(self) -> float: ...

    @property
    def in_place(self) -> bool: ...

CONTROL_SIZE: int = 16384

class Sizes:
    """
    Lengths in float64 values (wire, center_wire, grad_wire, saved) and bytes (workspace).

    center_wire is 0 if centering is off.
    """

    @property
    def wire(self) -> int: ...

    @property
    def center_wire(self) -> int: ...

    @property
    def grad_wire(self) -> int: ...

    @property
    def saved(self) -> int: ...

    @property
    def workspace(self) -> int: ...

    def __repr__(self) -> str: ...

def sizes(x: object, options: Options) -> Sizes:
    """
    Return the Sizes of calls with x and options.

    Reads the shape, dtype, layout and device of x, but not its values.
    """

class Communicator:
    """
    Handle of one rank of a group that all-reduces small float64 vectors.

    The functions of syncnorm.comm and split() create communicators. A communicator serves one call at a
    time; poll and abort may come from any thread. Errors are sticky: after a failure, later calls raise
    the first one.

    As a context manager it closes on exit. If an exception leaves the with block, it first aborts, with
    the exception as the reason: this rank will not make the calls that the other ranks wait for.
    """

    @property
    def rank(self) -> int:
        """Rank of this communicator, from 0."""

    @property
    def size(self) -> int:
        """Number of ranks in the group."""

    @property
    def kind(self) -> str:
        """'threads', 'callback' or 'nccl'."""

    @property
    def device_memory(self) -> tuple[str, ...]:
        """Devices of the arrays that it sums: 'cpu', 'cuda'."""

    @property
    def closed(self) -> bool:
        """Whether close() was called."""

    def sum(self, src: object, dst: object, *, stream: int = 0) -> None:
        """
        Write the sum of src over the group into dst.

        Every rank makes the call.

        Args:
            src, dst: float64 arrays, contiguous, without overlap, of the same length on all ranks. On the
                CPU dst is complete when the call returns. On a CUDA device the sum is enqueued on stream.
            stream: cudaStream_t as an integer; 0 on the CPU.

        Raises:
            InvalidArgumentError: An array is wrong, or the communicator is closed.
            CommunicatorTimeoutError: A rank did not make the call before the deadline.
            Error: An earlier failure of the communicator. An exception of a Python callback is not changed.
        """

    def split(self, color: int, key: int = 0) -> Communicator | None:
        """
        Divide the group. Every rank makes the call.

        Args:
            color: Ranks with the same color form a group; color < 0 joins none.
            key: Orders the ranks of the new group; equal keys keep the order of the old ranks.

        Returns:
            A communicator of the new group, or None for color < 0.

        Raises:
            UnsupportedError: The group cannot be split.
        """

    def poll(self) -> None:
        """Raise the first failure of the communicator, if any."""

    def wait(self, stream: int = 0, timeout: float = 600.0) -> None:
        """
        Wait for the work on a stream, and poll for failures.

        Returns at once if sums are complete when they return, as on the CPU.

        Args:
            stream: cudaStream_t as an integer.
            timeout: Seconds.

        Raises:
            CommunicatorTimeoutError: The work was not done after timeout. The communicator has failed, and
                the message names its last sum.
        """

    def abort(self, reason: str) -> None:
        """
        Make the group fail permanently.

        Ranks that wait in a call raise InternalError if abort can reach them, as for threads and MPI. May
        be called from any thread.

        Args:
            reason: Text for the error messages.
        """

    def close(self) -> None:
        """
        Release the handle. Further calls do nothing.

        A call in progress in another thread completes first. Later calls raise InvalidArgumentError.
        """

    def __enter__(self) -> Communicator: ...

    def __exit__(self, type: type[BaseException] | None, value: BaseException | None, traceback: object) -> None: ...

    def __repr__(self) -> str: ...

def thread_group(n: int, timeout: float = 60.0) -> list[Communicator]:
    """See syncnorm.comm.thread_group."""

def callback_communicator(rank: int, size: int, sum: Callable[[memoryview, memoryview], object], split: Callable[[int, int], tuple[Any, ...] | None] | None = None, abort: Callable[[str], object] | None = None) -> Communicator:
    """See syncnorm.comm.from_callback."""

def nccl_unique_id() -> bytes:
    """See syncnorm.comm.nccl_unique_id."""

def nccl_communicator(id: bytes | None, rank: int, size: int, device: int, *, init_timeout: float = 300.0, sum_timeout: float | None = 600.0, max_ctas: int | None = None) -> Communicator:
    """See syncnorm.comm.from_nccl_id."""

def nccl_group(devices: Sequence[int], *, init_timeout: float = 300.0, sum_timeout: float | None = 600.0, max_ctas: int | None = None) -> list[Communicator]:
    """See syncnorm.comm.nccl_group."""

def borrow_nccl(pointer: int, owner: object | None = None, *, init_timeout: float = 300.0, sum_timeout: float | None = 600.0, max_ctas: int | None = None) -> Communicator:
    """See syncnorm.comm.borrow_nccl."""

def moments(options: Options, x: object | None, wire: object | None, *, mask: object | None = None, local_var: object | None = None, y: object | None = None, saved: object | None = None, weight: object | None = None, bias: object | None = None, running_mean: object | None = None, running_var: object | None = None, num_batches_tracked: object | None = None, residual: object | None = None, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0, status: object | None = None, tag: int = 0) -> None:
    """
    Compute the statistics of this rank: forward, phase 1.

    Args:
        wire: Output, sizes.wire values. All-reduce it into total.
        local_var: Optional output, float64 (C,), for center.
        y, saved, weight, bias, running_mean, running_var, num_batches_tracked, residual: Those of
            normalize, to be validated before the all-reduce; neither read nor written.
    """

def center(options: Options, x: object | None, group_size: int, wire: object | None, total: object | None, local_var: object | None, center_wire: object | None, *, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0, status: object | None = None, tag: int = 0) -> None:
    """
    Compute the center wire: forward, phase 2.

    Only if sizes.center_wire > 0. Reads only the metadata of x.

    Args:
        group_size: Number of ranks, >= 1.
        wire: From moments.
        total: Sum of wire over the ranks; another array than wire if group_size > 1.
        local_var: From moments.
        center_wire: Output, sizes.center_wire values. All-reduce it into center_total.

    Raises:
        DesyncError: The ranks disagree. Nothing was written.
    """

def normalize(options: Options, x: object | None, group_size: int, wire: object | None, total: object | None, y: object | None, *, center_total: object | None = None, saved: object | None = None, weight: object | None = None, bias: object | None = None, running_mean: object | None = None, running_var: object | None = None, num_batches_tracked: object | None = None, residual: object | None = None, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0, status: object | None = None, tag: int = 0) -> None:
    """
    Compute y = act((x - mean)*invstd*weight + bias [+ residual]): forward, phase 3.

    Args:
        group_size: Number of ranks, >= 1.
        wire: From moments.
        total: Sum of wire over the ranks; another array than wire if group_size > 1.
        y: Output. May be the memory of residual. May be the memory of x with options.in_place or if no
            backward pass follows.
        center_total: Sum of center_wire over the ranks, if centering is on.
        saved: Output for the backward pass; None if none follows.
        running_mean, running_var: Updated unless the whole group is empty. Pass both or neither.
        num_batches_tracked: Incremented if the running statistics are updated.

    Raises:
        DesyncError: The ranks disagree. Nothing was written.
    """

def update_running(options: Options, x: object | None, group_size: int, wire: object | None, total: object | None, running_mean: object | None, running_var: object | None, *, center_total: object | None = None, num_batches_tracked: object | None = None, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0, status: object | None = None, tag: int = 0) -> None:
    """
    Update only the running statistics.

    For trainers that update them at another time than normalize. Reads only the metadata of x. The
    arguments are those of normalize.
    """

def grad_moments(options: Options, x: object | None, dy: object | None, saved: object | None, wire: object | None, *, weight: object | None = None, bias: object | None = None, y: object | None = None, dx: object | None = None, dresidual: object | None = None, dweight: object | None = None, dbias: object | None = None, mask: object | None = None, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0, status: object | None = None, tag: int = 0) -> None:
    """
    Compute the gradient sums of this rank: backward, phase 1.

    Every rank of the group makes this call, whichever gradients it needs.

    Args:
        x: As in forward; with options.in_place the output y.
        dy: Gradient of y.
        saved: From the forward pass.
        wire: Output, sizes.grad_wire values. All-reduce it into total.
        weight, bias: As in forward.
        y: Output of the forward pass, if it had both an activation and a residual; otherwise None.
        dx, dresidual, dweight, dbias, mask: Those of grad_input, to be validated before the all-reduce;
            neither read nor written.
    """

def grad_input(options: Options, x: object | None, dy: object | None, saved: object | None, group_size: int, wire: object | None, total: object | None, *, dx: object | None = None, dresidual: object | None = None, dweight: object | None = None, dbias: object | None = None, weight: object | None = None, bias: object | None = None, mask: object | None = None, y: object | None = None, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0, status: object | None = None, tag: int = 0) -> None:
    """
    Compute the gradients: backward, phase 2.

    Args:
        x, dy, saved, weight, bias, y: As in grad_moments.
        group_size: Number of ranks, >= 1.
        wire: From grad_moments.
        total: Sum of wire over the ranks; another array than wire if group_size > 1.
        dx, dresidual, dweight, dbias: Optional outputs. dx or dresidual, but not both, may be the
            memory of dy.
        mask: As in forward.

    Raises:
        DesyncError: The ranks disagree. Nothing was written.
    """

def forward(options: Options, comm: Communicator | None, x: object | None, y: object | None, *, saved: object | None = None, mask: object | None = None, residual: object | None = None, weight: object | None = None, bias: object | None = None, running_mean: object | None = None, running_var: object | None = None, num_batches_tracked: object | None = None, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0, status: object | None = None, tag: int = 0) -> None:
    """
    Compute the forward pass: the phases and the all-reduces between them.

    Args:
        comm: Communicator, or None for a group of one.
        x, y, saved, mask, residual, weight, bias, running_mean, running_var, num_batches_tracked: As in
            moments and normalize.
        tag: If the low 32 bits are 0, the communicator's count of forward passes is added.

    Raises:
        Error: As raised by the phases and by comm, for example CommunicatorTimeoutError. An exception
            of a Python callback is not changed.
    """

def backward(options: Options, comm: Communicator | None, x: object | None, dy: object | None, saved: object | None, *, dx: object | None = None, dresidual: object | None = None, dweight: object | None = None, dbias: object | None = None, weight: object | None = None, bias: object | None = None, mask: object | None = None, y: object | None = None, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0, status: object | None = None, tag: int = 0) -> None:
    """
    Compute the backward pass: the phases and the all-reduce between them.

    Every rank of the group makes this call, whichever gradients it needs.

    Args:
        comm: Communicator, or None for a group of one.
        x, dy, saved, dx, dresidual, dweight, dbias, weight, bias, mask, y: As in grad_moments and
            grad_input.

    Raises:
        Error: As in forward.
    """

def infer(options: Options, x: object | None, running_mean: object | None, running_var: object | None, y: object | None, *, weight: object | None = None, bias: object | None = None, residual: object | None = None, saved: object | None = None, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0) -> None:
    """
    Compute y = act((x - running_mean)*invstd*weight + bias [+ residual]).

    Reads the running statistics, and does not update them.

    Args:
        y: Output.
        saved: Optional output for infer_backward.
    """

def infer_backward(options: Options, x: object | None, dy: object | None, saved: object | None, *, dx: object | None = None, dresidual: object | None = None, dweight: object | None = None, dbias: object | None = None, weight: object | None = None, bias: object | None = None, y: object | None = None, workspace: object | None = None, control: object | None = None, num_threads: int = 1, stream: int = 0) -> None:
    """
    Compute the gradients of infer, without a group.

    The arguments are those of grad_input.
    """

def xla_ffi_handlers(device: str) -> dict[str, object]:
    """
    Return the phases as handlers of XLA's typed FFI.

    bindings/xla_ffi_call.hpp describes the operands and attributes of a handler.

    Args:
        device: 'cpu' or 'cuda'.

    Returns:
        Capsules for jax.ffi.register_ffi_target, by name.

    Raises:
        InvalidArgumentError: Another device.
    """

def capabilities() -> dict[str, Any]:
    """See syncnorm.capabilities, which adds other_nccl."""

def version() -> str:
    """Return the version of the loaded core library, 'X.Y.Z'."""

class Error(RuntimeError): ...

class InvalidArgumentError(Error, ValueError): ...

class ArgumentTypeError(InvalidArgumentError, TypeError): ...

class UnsupportedError(Error, NotImplementedError): ...

class CudaError(Error): ...

class NcclError(Error): ...

class DesyncError(Error): ...

class CommunicatorTimeoutError(Error, TimeoutError): ...

class OutOfMemoryError(Error, MemoryError): ...

class InternalError(Error): ...

class RankLostError(Error, ConnectionError): ...
