// Docstrings of the class Communicator and of the functions that create communicators.
#pragma once

namespace syncnorm::bindings::doc {

inline constexpr const char* kCommunicator =
    R"(Handle of one rank of a group that all-reduces small float64 vectors.

The functions of syncnorm.comm and split() create communicators. A communicator serves one call at a
time; poll and abort may come from any thread. Errors are sticky: after a failure, later calls raise
the first one.

As a context manager it closes on exit. If an exception leaves the with block, it first aborts, with
the exception as the reason: this rank will not make the calls that the other ranks wait for.)";

inline constexpr const char* kCommSum = R"(Write the sum of src over the group into dst.

Every rank makes the call.

Args:
    src, dst: float64 arrays, contiguous, without overlap, of the same length on all ranks. On the
        CPU dst is complete when the call returns. On a CUDA device the sum is enqueued on stream.
    stream: cudaStream_t as an integer; 0 on the CPU.

Raises:
    InvalidArgumentError: An array is wrong, or the communicator is closed.
    CommunicatorTimeoutError: A rank did not make the call before the deadline.
    Error: An earlier failure of the communicator. An exception of a Python callback is not changed.
)";

inline constexpr const char* kCommSplit = R"(Divide the group. Every rank makes the call.

Args:
    color: Ranks with the same color form a group; color < 0 joins none.
    key: Orders the ranks of the new group; equal keys keep the order of the old ranks.

Returns:
    A communicator of the new group, or None for color < 0.

Raises:
    UnsupportedError: The group cannot be split.
)";

inline constexpr const char* kCommPoll = R"(Raise the first failure of the communicator, if any.)";

inline constexpr const char* kCommWait = R"(Wait for the work on a stream, and poll for failures.

Returns at once if sums are complete when they return, as on the CPU.

Args:
    stream: cudaStream_t as an integer.
    timeout: Seconds.

Raises:
    CommunicatorTimeoutError: The work was not done after timeout. The communicator has failed, and
        the message names its last sum.
)";

inline constexpr const char* kCommAbort = R"(Make the group fail permanently.

Ranks that wait in a call raise InternalError if abort can reach them, as for threads and MPI. May
be called from any thread.

Args:
    reason: Text for the error messages.
)";

inline constexpr const char* kCommClose = R"(Release the handle. Further calls do nothing.

A call in progress in another thread completes first. Later calls raise InvalidArgumentError.)";

inline constexpr const char* kThreadGroup = "See syncnorm.comm.thread_group.";
inline constexpr const char* kCallbackCommunicator = "See syncnorm.comm.from_callback.";
inline constexpr const char* kNcclUniqueId = "See syncnorm.comm.nccl_unique_id.";
inline constexpr const char* kNcclCommunicator = "See syncnorm.comm.from_nccl_id.";
inline constexpr const char* kNcclGroup = "See syncnorm.comm.nccl_group.";
inline constexpr const char* kBorrowNccl = "See syncnorm.comm.borrow_nccl.";

}  // namespace syncnorm::bindings::doc
