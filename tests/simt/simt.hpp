// What a test says to the simulated devices, besides what it says through CUDA's own interface.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "simt/thread.hpp"

namespace simt {

// What every device has.
struct Limits {
  int sms = 3;
  int threads_per_block = 1024;
  int threads_per_sm = 2048;
  int blocks_per_sm = 32;
  std::size_t shared_per_block = 48 << 10;
  std::size_t shared_per_block_optin = 64 << 10;
  std::size_t shared_per_sm = 100 << 10;
  std::size_t l2 = 4 << 20;
  int major = 9;
  int minor = 0;
  bool cooperative = true;
};
SIMT_API void set_limits(const Limits& limits);
SIMT_API Limits limits();
SIMT_API void set_device_count(int count);  // 2 if never called
// What cudaDriverGetVersion gives, 0 without a driver; CUDART_VERSION if never called. With an
// older one every call returns cudaErrorInsufficientDriver.
SIMT_API void set_driver_version(int version);

// The order of blocks and of threads. 0: as they are numbered. At first it is the environment
// variable SIMT_SEED, or 0.
SIMT_API void set_seed(std::uint64_t seed);
SIMT_API std::uint64_t seed();
// Under a seed every kernel is held back until the next operation of its stream, or a call that
// waits for it, so that a programmatic dependent launch can start before it.
SIMT_API void hold_back_kernels(bool hold);

// Since the process began. What is captured counts when it is captured, not when it is replayed.
struct Counts {
  std::int64_t kernels = 0;
  std::int64_t dependent_kernels = 0;  // of these: programmatic dependent launches
  std::int64_t memsets = 0;
  std::int64_t copies = 0;
};
SIMT_API Counts counts();
// How often a function of the runtime was called, by its name.
SIMT_API std::int64_t calls(std::string_view function);

// The longest chain of dependent loads that a CUDA thread has waited for, in any launch since the
// last reset: see simt/latency.hpp.
SIMT_API std::uint32_t dependent_loads();
SIMT_API void reset_dependent_loads();

// Work on a blocked stream stays pending, and so do events recorded there. Unblocking runs it.
SIMT_API void block_stream(cudaStream_t stream);
SIMT_API void unblock_stream(cudaStream_t stream);

// Keeps what comes after it on its stream pending until it is opened, once, by any thread.
class SIMT_API Gate {
 public:
  explicit Gate(cudaStream_t stream);
  void open();

 private:
  std::shared_ptr<bool> open_;
};

// The next call of `function`, or of any that returns an error if empty, returns `error` and does
// nothing else.
SIMT_API void fail_next(cudaError_t error, std::string_view function = {});

// What the last kernel that failed did wrong; empty if none did. From then on every call returns
// cudaErrorLaunchFailure, until reset.
SIMT_API std::string fault();
// Forgets faults, errors to inject and the calling thread's last error; the limits, the number of
// devices, the driver and the seed are again what they were at first.
SIMT_API void reset();

}  // namespace simt
