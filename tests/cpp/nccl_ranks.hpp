// NCCL communicators over the double of libnccl and the simulated CUDA runtime.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/nccl.hpp"
#include "comm_ranks.hpp"
#include "doubles/nccl/nccl_double.hpp"
#include "simt.hpp"

namespace syncnorm::contract {

// Before any thread exists: the library is looked for once.
inline const bool kDoubleIsFound = setenv("SYNCNORM_NCCL_LIBRARY", SYNCNORM_NCCL_DOUBLE, 1) == 0;

// At the begin of every test: the double and the devices are as new. At its end every communicator
// has ended, in good order or by an abort, and was not touched afterwards.
class NcclTest {
 public:
  NcclTest() {
    nccl_double_reset();
    simt::reset();
    simt::set_device_count(8);
  }
  ~NcclTest() {
    CHECK(nccl_double_alive() == 0);
    CHECK(nccl_double_misuses() == 0);
    nccl_double_reset();
  }
  NcclTest(const NcclTest&) = delete;
  NcclTest& operator=(const NcclTest&) = delete;
};

inline syncnorm_nccl_options timeouts(double init_s, double sum_s) {
  return {sizeof(syncnorm_nccl_options), init_s, sum_s, 0};
}

using NcclId = std::array<std::uint8_t, SYNCNORM_NCCL_ID_SIZE>;

inline NcclId new_id() {
  NcclId id{};
  make_nccl_id(id.data());
  return id;
}

// The outcomes of the ranks that come, each in a thread of its own and on the device of its number.
inline std::vector<Outcome> create(Ranks& ranks, const syncnorm_nccl_options& options,
                                   const std::vector<int>& coming) {
  const NcclId id = new_id();
  const int size = static_cast<int>(ranks.size());
  std::vector<Outcome> outcomes(ranks.size());
  std::vector<std::thread> threads;
  for (const int rank : coming) {
    const auto r = static_cast<std::size_t>(rank);
    threads.emplace_back([&, r, rank] {
      outcomes[r] = outcome_of(
          [&] { ranks[r] = make_nccl_communicator(id.data(), rank, size, rank, options); });
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

inline Ranks make_nccl_ranks(int n, double timeout_s) {
  Ranks ranks(static_cast<std::size_t>(n));
  std::vector<int> all;
  for (int r = 0; r < n; ++r) all.push_back(r);
  check_all_ok(create(ranks, timeouts(timeout_s, timeout_s), all));
  return ranks;
}

// A stream of the device that is current.
class TestStream {
 public:
  TestStream() { CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess); }
  ~TestStream() { CHECK(cudaStreamDestroy(stream_) == cudaSuccess); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  operator cudaStream_t() const noexcept { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Until it holds; what never does is ended by the test's own time limit.
template <class Condition>
void await(const Condition& condition) {
  while (!condition()) sleep_for(0.001);
}

}  // namespace syncnorm::contract
