// What a test says to the double of libnccl, and asks it. The double sums host memory, on streams
// of the simulated CUDA runtime; its ranks are threads of one process.
#pragma once

#define NCCL_DOUBLE_API extern "C" __attribute__((visibility("default")))

// The settings, by name; "" is none. At first each is that of the environment variable
// NCCL_DOUBLE_<name>. A function is named without "nccl", an n-th call is counted from reset on.
//   FAIL         AllReduce:3:6,CommSplit:1:5  the 3rd AllReduce gives 6, the 1st CommSplit 5
//   HANG         AllReduce,CommAbort  does not return before its communicator is aborted, or HANG
//                is set anew
//   STALL        AllReduce,CommSplit  returns, but what it began is never done
//   SLOW_MS      50  what is in progress stays so for so long
//   ASYNC_ERROR  6   what every communicator reports, as if a peer had died
//   VERSION      21700
NCCL_DOUBLE_API void nccl_double_set(const char* name, const char* value);

// How often a function was called, by its name without "nccl".
NCCL_DOUBLE_API long nccl_double_calls(const char* function);
// Communicators that were made, and neither destroyed nor aborted.
NCCL_DOUBLE_API long nccl_double_alive();
// Calls with what is no communicator (any more), or with one that was still busy with a call.
NCCL_DOUBLE_API long nccl_double_misuses();
// Forgets the counts and the settings.
NCCL_DOUBLE_API void nccl_double_reset();
