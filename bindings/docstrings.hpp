// The documentation that Python shows. An "array" below is a syncnorm._core.Array or an object of a
// type with __dlpack_c_exchange_api__, such as a torch.Tensor.
#pragma once

namespace syncnorm::bindings::doc {

inline constexpr const char* kModule =
    R"(The core of syncnorm: the C interface of syncnorm.h as functions on arrays.

An array argument is an Array, or an object whose type offers DLPack's C exchange table
(__dlpack_c_exchange_api__), such as a torch.Tensor; where a default of None is shown it may be left
out. Nothing is ever copied or converted, and no stream is waited for.

What the functions share:
  x          (N, C, *spatial), float16, bfloat16, float32 or float64, dense, channels first or last
             (told by the strides). y, residual, dy, dx, dresidual: x's shape, dtype and layout.
  vectors    weight, bias, running_mean, running_var, dweight, dbias: (C,), contiguous, any mix of
             float16, bfloat16 and float32; float32 or float64 where x is float64.
  wires      wire, total, saved and their like: float64, one axis, lengths from sizes(x, options).
  mask       x's shape without axis 1, uint8 or bool; 0: the position does not count.
  workspace  scratch of at least sizes(x, options).workspace bytes, 64-byte aligned, any content.
  control    None, or on a CUDA device CONTROL_SIZE bytes, 64-byte aligned, that the caller zeroed
             once and that only calls on this stream use, which leave them zero. Saves a memset.
  num_threads  CPU threads to use, >= 1. The result does not depend on it, to the bit.
  stream     the cudaStream_t as an integer; 0 on the CPU.
  status     None or one int32, set where the ranks of a group disagree. Host memory that a device
             can access (pinned) is given as an Array on that device.
  tag        names the call, so that ranks in different calls are told apart; 0: unnamed.

Errors: TypeError for what is no array; InvalidArgumentError for a wrong shape, dtype, device,
length, layout or value; UnsupportedError for what this build does not offer; CudaError for what the
CUDA runtime reports; DesyncError where ranks are in different calls (on a device, where nothing
waits for it, status is set and the outputs are NaN instead). What can be seen before the work
starts is refused before anything is written. The GIL is released while a call computes or waits.
)";

inline constexpr const char* kArray =
    R"(A view of memory that somebody else owns: pointer, shape, strides, dtype, device.

pointer: the address of the first element. shape, strides_in_elements: one integer for each axis.
dtype: 'float16', 'bfloat16', 'float32', 'float64', 'int64', 'int32', 'uint8' or 'bool'.
device: 'cpu' or 'cuda'; device_index: the CUDA ordinal. read_only: refused as an output.
owner: kept alive as long as the Array; without one the caller sees to that.
buffer, in place of all these: an object with the buffer protocol, whose first element is pointer;
it is on the CPU, exported as long as the Array lives, and read_only if it says so.
Raises InvalidArgumentError for another dtype or device, or lengths that differ.
)";

inline constexpr const char* kArrayOverlaps =
    "Whether the memory from its first to its last element has addresses in common with other's.";

inline constexpr const char* kOptions =
    R"(What is computed. Immutable, comparable, hashable, picklable.

eps: added to the variance; finite, >= 0. momentum: running = (1 - momentum)*running +
momentum*batch; 0..1, or None for the average over all batches. weighting: how much a rank counts:
'count' (its values: exactly one big batch), 'equal', 'batch' (its samples). eps_mode: 'add' or
'max'. variance_factor: of running_var: 'unbiased', 'biased', 'unbiased_local', 'unbiased_rank'.
grad_reduction: what dweight and dbias report: 'local', 'sum', 'mean'. centering: one more small
sum for the accuracy of the variance: 'auto' (float64 x only), 'on', 'off'. activation:
'identity', 'relu', 'leaky_relu' with negative_slope (finite, >= 0), 'elu'. in_place: y may be x's
memory, and the backward functions take y as their x; without residual, for 'identity', 'elu' and
'leaky_relu' with negative_slope from 2^-126 to 2^126. There a weight nearer to 0 than 2^-12 is
applied as 2^-12 with its sign. All but momentum and variance_factor must be the same on all ranks.
Raises InvalidArgumentError for a value that is not allowed.
)";

inline constexpr const char* kSizes =
    R"(How much the caller provides: wire, center_wire (0: centring is off), grad_wire and saved in
float64 values, workspace in bytes.)";

inline constexpr const char* kSizesFunction = R"(The Sizes for calls with this x and these options.

Reads only the shape, dtype, layout and device of x.)";

inline constexpr const char* kMoments = R"(Forward, phase 1: the statistics of this rank.

Reads x and mask; writes wire (sizes.wire values) and, if given, local_var (float64, C values),
which center needs.)";

inline constexpr const char* kCenter = R"(Forward, phase 2, only where sizes.center_wire > 0.

Reads wire, total (the sum of the wires of group_size ranks, another array) and local_var; writes
center_wire (sizes.center_wire values), to be summed over the group. Reads only x's metadata.)";

inline constexpr const char* kNormalize =
    R"(Forward, phase 3: y = act((x - mean)*invstd*weight + bias [+ residual]).

Reads wire, total and, where centring is on, center_total (the summed center_wire). Writes y, saved
(sizes.saved values; None where no backward pass follows), and updates running_mean, running_var
(both or neither) and num_batches_tracked (one int64) unless the whole group is empty. y may be
residual's memory, and x's with options.in_place or where no backward pass follows. Raises
DesyncError where the ranks disagree.)";

inline constexpr const char* kUpdateRunning =
    R"(The update of the running statistics alone, for trainers that move them at another time.

Reads wire, total, center_total as normalize does; writes running_mean, running_var and
num_batches_tracked. Reads only x's metadata.)";

inline constexpr const char* kGradMoments = R"(Backward, phase 1: the gradient sums of this rank.

Reads x (with options.in_place the forward's output), dy, saved, weight, bias, and y (the forward's
output: given exactly when there was an activation and a residual); writes wire (sizes.grad_wire
values). Every rank of the group takes part.)";

inline constexpr const char* kGradInput = R"(Backward, phase 2: the gradients.

Reads what grad_moments read, wire, total (the sum of the wires of group_size ranks) and the
forward's mask; writes those of dx, dresidual, dweight and dbias that are given. dx may be dy's
memory; dresidual may be too if dx is not.)";

inline constexpr const char* kInfer =
    R"(y = act((x - running_mean)*invstd*weight + bias [+ residual]); no statistics are updated.

Writes y and, if given, saved (sizes.saved values) for infer_backward.)";

inline constexpr const char* kInferBackward = R"(The gradients of infer; no group is involved.

Arguments as in grad_input.)";

inline constexpr const char* kForward = R"(The forward phases joined by comm; None: a group of one.

Arguments as in moments and normalize. Without a tag the communicator's count of calls names the
call. Raises also what comm raises: CommunicatorTimeoutError, or the exception of a Python
callback.)";

inline constexpr const char* kBackward =
    R"(The backward phases joined by comm; None: a group of one.

Arguments as in grad_moments and grad_input; every rank of the group takes part. Raises as
forward.)";

inline constexpr const char* kCommunicator =
    R"(One rank's handle on a group that can sum a small vector.

Made by the functions of syncnorm.comm, or by split(). Serves one call at a time. After a failure it
stays failed with its first reason.

Usable as a context manager, which closes it. Where an exception leaves the with-block, the
communicator is aborted first, with the exception as the reason: this rank will not make the calls
that the other ranks wait for, and those that can be reached learn it at once.)";

inline constexpr const char* kCommSum = R"(dst = the sum of src over the group; every rank calls it.

src, dst: float64 arrays, contiguous, of the same length on all ranks, that do not overlap. On the
CPU the call returns when dst is complete; on a device the sum is enqueued on stream, the
cudaStream_t as an integer.

Raises InvalidArgumentError for other arrays or a closed communicator, CommunicatorTimeoutError,
or the exception of a Python callback.)";

inline constexpr const char* kCommSplit = R"(Divide the group; every rank calls it.

Ranks of one color form a group, ordered by key, then by their old rank. color < 0: this rank joins
none and gets None. Raises UnsupportedError where the group cannot be split.)";

inline constexpr const char* kCommPoll =
    R"(Raises the communicator's first failure, if there was one.)";

inline constexpr const char* kCommWait =
    R"(Waits until all work enqueued on `stream` so far is done, and polls for failures meanwhile.

Raises CommunicatorTimeoutError after `timeout` seconds: the communicator has failed then, and the
message names its last sum. Returns at once where sums are done when they return, as on the CPU.)";

inline constexpr const char* kCommAbort = R"(Makes the group fail, for good, with `reason`.

Ranks that wait in it are released with InternalError, where they can be reached: threads, ranks
over MPI. May be called from any thread at any time.)";

inline constexpr const char* kCommClose = R"(Gives the handle back. Calling it again does nothing.

A call that is under way in another thread is finished first; later ones raise
InvalidArgumentError.)";

inline constexpr const char* kThreadGroup = R"(n communicators of one group; item i is rank i.

See syncnorm.comm.thread_group.)";

inline constexpr const char* kCallbackCommunicator = R"(A communicator over Python callables.

See syncnorm.comm.from_callback.)";

inline constexpr const char* kNcclUniqueId = R"(The bytes by which the ranks of a new group meet.

See syncnorm.comm.nccl_unique_id.)";

inline constexpr const char* kNcclCommunicator = R"(Rank `rank` of a new group over NCCL.

See syncnorm.comm.from_nccl_id.)";

inline constexpr const char* kNcclGroup =
    R"(All ranks of a new group over NCCL, item i on devices[i].

See syncnorm.comm.nccl_group.)";

inline constexpr const char* kBorrowNccl = R"(A communicator over an ncclComm_t of the caller's.

See syncnorm.comm.borrow_nccl.)";

inline constexpr const char* kXlaFfiHandlers =
    R"(The phases as handlers of XLA's typed FFI, by name.

device: 'cpu' or 'cuda'. The values are capsules for jax.ffi.register_ffi_target; how a handler is
called stands in bindings/xla_ffi_call.hpp. Raises InvalidArgumentError for another device.)";

inline constexpr const char* kCapabilities =
    R"(What was built and what was found.

See syncnorm.capabilities, which adds what the process has loaded.)";

inline constexpr const char* kVersion = R"(major.minor.patch of the core library that is loaded.)";

}  // namespace syncnorm::bindings::doc
