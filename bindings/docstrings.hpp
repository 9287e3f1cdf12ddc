// Docstrings of syncnorm._core. "Array" means a syncnorm._core.Array or an object of a type with
// __dlpack_c_exchange_api__, such as a torch.Tensor.
#pragma once

namespace syncnorm::bindings::doc {

inline constexpr const char* kModule =
    R"(The core of syncnorm: the C interface of syncnorm.h as functions of arrays.

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
)";

inline constexpr const char* kArray = R"(A view of memory that another object owns.

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
)";

inline constexpr const char* kArrayOverlaps =
    R"(Return whether the address ranges of two arrays overlap.

A range extends from the lowest to the highest element of an array.)";

inline constexpr const char* kOptions =
    R"(Options of the computation. Immutable, comparable, hashable, picklable.

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
)";

inline constexpr const char* kSizes =
    R"(Lengths in float64 values (wire, center_wire, grad_wire, saved) and bytes (workspace).

center_wire is 0 if centering is off.)";

inline constexpr const char* kSizesFunction = R"(Return the Sizes of calls with x and options.

Reads the shape, dtype, layout and device of x, but not its values.)";

inline constexpr const char* kMoments = R"(Compute the statistics of this rank: forward, phase 1.

Args:
    wire: Output, sizes.wire values. All-reduce it into total.
    local_var: Optional output, float64 (C,), for center.
    y, saved, weight, bias, running_mean, running_var, num_batches_tracked, residual: Those of
        normalize, to be validated before the all-reduce; neither read nor written.
)";

inline constexpr const char* kCenter = R"(Compute the center wire: forward, phase 2.

Only if sizes.center_wire > 0. Reads only the metadata of x.

Args:
    group_size: Number of ranks, >= 1.
    wire: From moments.
    total: Sum of wire over the ranks; another array than wire if group_size > 1.
    local_var: From moments.
    center_wire: Output, sizes.center_wire values. All-reduce it into center_total.

Raises:
    DesyncError: The ranks disagree. Nothing was written.
)";

inline constexpr const char* kNormalize =
    R"(Compute y = act((x - mean)*invstd*weight + bias [+ residual]): forward, phase 3.

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
)";

inline constexpr const char* kUpdateRunning = R"(Update only the running statistics.

For trainers that update them at another time than normalize. Reads only the metadata of x. The
arguments are those of normalize.)";

inline constexpr const char* kGradMoments =
    R"(Compute the gradient sums of this rank: backward, phase 1.

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
)";

inline constexpr const char* kGradInput = R"(Compute the gradients: backward, phase 2.

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
)";

inline constexpr const char* kInfer =
    R"(Compute y = act((x - running_mean)*invstd*weight + bias [+ residual]).

Reads the running statistics, and does not update them.

Args:
    y: Output.
    saved: Optional output for infer_backward.
)";

inline constexpr const char* kInferBackward = R"(Compute the gradients of infer, without a group.

The arguments are those of grad_input.)";

inline constexpr const char* kForward =
    R"(Compute the forward pass: the phases and the all-reduces between them.

Args:
    comm: Communicator, or None for a group of one.
    x, y, saved, mask, residual, weight, bias, running_mean, running_var, num_batches_tracked: As in
        moments and normalize.
    tag: If the low 32 bits are 0, the communicator's count of forward passes is added.

Raises:
    Error: As raised by the phases and by comm, for example CommunicatorTimeoutError. An exception
        of a Python callback is not changed.
)";

inline constexpr const char* kBackward =
    R"(Compute the backward pass: the phases and the all-reduce between them.

Every rank of the group makes this call, whichever gradients it needs.

Args:
    comm: Communicator, or None for a group of one.
    x, dy, saved, dx, dresidual, dweight, dbias, weight, bias, mask, y: As in grad_moments and
        grad_input.

Raises:
    Error: As in forward.
)";

inline constexpr const char* kCapabilities = "See syncnorm.capabilities, which adds other_nccl.";
inline constexpr const char* kVersion = "Return the version of the loaded core library, 'X.Y.Z'.";

inline constexpr const char* kXlaFfiHandlers = R"(Return the phases as handlers of XLA's typed FFI.

bindings/xla_ffi_call.hpp describes the operands and attributes of a handler.

Args:
    device: 'cpu' or 'cuda'.

Returns:
    Capsules for jax.ffi.register_ffi_target, by name.

Raises:
    InvalidArgumentError: Another device.
)";

}  // namespace syncnorm::bindings::doc
