// The communicator port: one rank's handle on a group that can sum a small vector.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "syncnorm/syncnorm.h"

namespace syncnorm {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  virtual const char* kind() const noexcept = 0;
  // Bit mask of 1 << syncnorm_device.
  virtual int device_memory() const noexcept = 0;

  // dst[0..count) = sum over the ranks of src[0..count); every rank gets the same bits.
  // Throws Error; after a failure every later call throws the first reason again.
  virtual void sum(const double* src, double* dst, std::int64_t count, syncnorm_device device,
                   void* stream) = 0;
  // Collective. nullptr where color < 0.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  // Throws the first failure, if there was one.
  virtual void poll() = 0;
  // Returns when what was enqueued on `stream` so far is done; throws what fails meanwhile, and
  // SYNCNORM_TIMEOUT after timeout_s. Sums of host memory are done already.
  virtual void wait(void* /*stream*/, double /*timeout_s*/) {}
  // Releases waiting ranks with SYNCNORM_INTERNAL; callable from any thread at any time.
  virtual void abort(const std::string& reason) noexcept = 0;

  // Forward passes of the one-call form so far, alike on every rank.
  std::uint64_t passes() const noexcept { return passes_.load(std::memory_order_relaxed); }
  void count_pass() noexcept { passes_.fetch_add(1, std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> passes_{0};
};

}  // namespace syncnorm
