// How the making of an NCCL group fails: each mistake has its own message, within the deadline.
#include <dlfcn.h>

#include <cmath>

#include "comm/nccl_api.hpp"
#include "nccl_ranks.hpp"
#include "support/kernel_list.hpp"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

Outcome create_one(int rank, int size, int device, const syncnorm_nccl_options& options) {
  const NcclId id = new_id();
  return outcome_of([&] { make_nccl_communicator(id.data(), rank, size, device, options); });
}

Outcome create_group(const std::vector<int>& devices, const syncnorm_nccl_options& options) {
  return outcome_of([&] { make_nccl_group(devices, options); });
}

TEST_CASE("wrong arguments are refused before NCCL is called") {
  const NcclTest test;
  const syncnorm_nccl_options good = timeouts(kAmple, kAmple);
  check_failed(create_one(0, 0, 0, good), SYNCNORM_INVALID_ARGUMENT, {"rank 0 of 0"});
  check_failed(create_one(2, 2, 0, good), SYNCNORM_INVALID_ARGUMENT, {"rank 2 of 2"});
  check_failed(create_one(-1, 2, 0, good), SYNCNORM_INVALID_ARGUMENT, {"rank -1 of 2"});
  check_failed(create_one(0, 1, 8, good), SYNCNORM_INVALID_ARGUMENT, {"device is 8", "< 8"});
  check_failed(create_one(0, 1, -1, good), SYNCNORM_INVALID_ARGUMENT, {"device is -1"});
  check_failed(create_group({}, good), SYNCNORM_INVALID_ARGUMENT, {"ranks is 0"});
  check_failed(create_group({0, 9}, good), SYNCNORM_INVALID_ARGUMENT, {"device is 9"});
  check_failed(create_group({4, 1, 4}, good), SYNCNORM_INVALID_ARGUMENT,
               {"ranks 0 and 2 are both on device 4"});
  for (const double wrong : {-1.0, std::nan(""), HUGE_VAL}) {
    check_failed(create_one(0, 1, 0, timeouts(wrong, 1)), SYNCNORM_INVALID_ARGUMENT,
                 {"init_timeout_s"});
  }
  for (const double wrong : {std::nan(""), HUGE_VAL}) {
    check_failed(create_one(0, 1, 0, timeouts(1, wrong)), SYNCNORM_INVALID_ARGUMENT,
                 {"sum_timeout_s"});
  }
  syncnorm_nccl_options wrong = good;
  wrong.max_ctas = -2;
  check_failed(create_one(0, 1, 0, wrong), SYNCNORM_INVALID_ARGUMENT, {"max_ctas is -2"});
  CHECK(nccl_double_calls("CommInitRankConfig") == 0);
}

TEST_CASE("where there is no device the error says why") {
  const NcclTest test;
  simt::set_driver_version(12040);
  check_failed(create_one(0, 1, 0, timeouts(kAmple, kAmple)), SYNCNORM_CUDA_ERROR,
               {"no usable CUDA device", "driver is too old", "CUDA 12.4"});
  check_failed(create_group({0, 1}, timeouts(kAmple, kAmple)), SYNCNORM_CUDA_ERROR,
               {"no usable CUDA device", "driver is too old"});
  CHECK(nccl_double_calls("CommInitRankConfig") == 0);
  simt::set_driver_version(CUDART_VERSION);
}

TEST_CASE("two ranks on one device: NCCL's words, at once") {
  const NcclTest test;
  const NcclId id = new_id();
  std::vector<Outcome> outcomes(2);
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      outcomes[r] = outcome_of([&] {
        make_nccl_communicator(id.data(), static_cast<int>(r), 2, 3, timeouts(kAmple, kAmple));
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Outcome& outcome : outcomes) {
    check_failed(outcome, SYNCNORM_NCCL_ERROR,
                 {"invalid usage (5)", "Duplicate GPU", "device 3", "of 2"});
  }
  CHECK(nccl_double_calls("CommAbort") == 2);
}

TEST_CASE("ranks that never come") {
  const NcclTest test;
  Ranks ranks(3);
  const auto outcomes = create(ranks, timeouts(kShort, kShort), {0, 2});
  for (const std::size_t r : {0, 2}) {
    check_failed(outcomes[r], SYNCNORM_TIMEOUT,
                 {concat("rank ", r, " of 3 (CUDA device ", r, ") waited 0.4 s"),
                  "ncclCommInitRankConfig", "not started", "init_timeout_s"});
  }
  CHECK(nccl_double_calls("CommAbort") == 2);
}

TEST_CASE("ranks that disagree about the size, or are the same rank") {
  const NcclTest test;
  for (const auto& [rank, size] : {std::pair{1, 3}, std::pair{0, 2}}) {
    const NcclId id = new_id();
    const auto options = timeouts(kShort, kShort);
    Outcome other;
    std::thread thread([&, r = rank, n = size] {
      other = outcome_of([&] { make_nccl_communicator(id.data(), r, n, 1, options); });
    });
    const Outcome one = outcome_of([&] { make_nccl_communicator(id.data(), 0, 2, 0, options); });
    thread.join();
    check_failed(one, SYNCNORM_TIMEOUT, {"rank 0 of 2", "different ids or sizes"});
    check_failed(other, SYNCNORM_TIMEOUT, {concat("rank ", rank, " of ", size)});
  }
}

// The call has not returned at the deadline. What it makes later is ended by the thread that is
// still in it.
TEST_CASE("a creation that hangs inside NCCL") {
  const NcclTest test;
  nccl_double_set("HANG", "CommInitRankConfig");
  const auto options = timeouts(kShort, kShort);
  check_failed(create_one(0, 1, 0, options), SYNCNORM_TIMEOUT, {"rank 0 of 1", "waited 0.4 s"});
  check_failed(create_group({0, 1}, options), SYNCNORM_TIMEOUT, {"rank 0 of 2", "waited 0.4 s"});
  nccl_double_set("HANG", "");
  await([] { return nccl_double_calls("CommAbort") == 3; });
  await([] { return nccl_double_alive() == 0; });
}

TEST_CASE("a call of the creation that fails") {
  const NcclTest test;
  const auto options = timeouts(kAmple, kAmple);
  nccl_double_set("FAIL", "GetUniqueId:1:2,CommInitRankConfig:1:2");
  check_failed(outcome_of([] { new_id(); }), SYNCNORM_NCCL_ERROR,
               {"ncclGetUniqueId", "unhandled system error (2)"});
  check_failed(create_one(0, 1, 0, options), SYNCNORM_NCCL_ERROR,
               {"ncclCommInitRankConfig", "unhandled system error (2)", "the test wants"});
}

// Whatever fails, the group call is closed and no communicator stays behind.
TEST_CASE("a call of the creation of all ranks that fails") {
  for (const char* fail : {"GroupStart:1:3", "CommInitRankConfig:1:3", "CommInitRankConfig:2:3",
                           "GroupEnd:1:3", "GetUniqueId:1:3"}) {
    CAPTURE(fail);
    const NcclTest test;
    nccl_double_set("FAIL", fail);
    check_failed(create_group({0, 1}, timeouts(kAmple, kAmple)), SYNCNORM_NCCL_ERROR,
                 {"internal error (3)"});
    CHECK(nccl_double_calls("GroupStart") - (std::string(fail) == "GroupStart:1:3") ==
          nccl_double_calls("GroupEnd"));
    CHECK(nccl_double_alive() == 0);
  }
}

TEST_CASE("one of all ranks that does not become ready") {
  const NcclTest test;
  nccl_double_set("STALL", "CommInitRankConfig");
  check_failed(create_group({0, 1, 2}, timeouts(kShort, kShort)), SYNCNORM_TIMEOUT, {"of 3"});
  CHECK(nccl_double_calls("CommAbort") == 3);
}

TEST_CASE("the caller's device stays current") {
  const NcclTest test;
  REQUIRE(cudaSetDevice(6) == cudaSuccess);
  Ranks ranks = make_nccl_group({1, 2}, timeouts(kAmple, kAmple));
  Ranks one(1);
  check_all_ok(create(one, timeouts(kAmple, kAmple), {0}));
  int current = -1;
  CHECK(cudaGetDevice(&current) == cudaSuccess);
  CHECK(current == 6);
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
}

void kernel() {}

long kernels_loaded() { return static_cast<long>(simt::calls("cudaFuncGetAttributes")); }

TEST_CASE("kernels are loaded before NCCL can wait for another rank") {
  const NcclTest test;
  cuda::KernelList::add(reinterpret_cast<const void*>(&kernel));
  const auto all = static_cast<long>(cuda::KernelList::all().size());
  const syncnorm_nccl_options options = timeouts(kAmple, kAmple);
  const long before = kernels_loaded();
  {
    Ranks ranks = make_nccl_group({0, 1}, options);
    CHECK(kernels_loaded() - before == 2 * all);
    Ranks parts = split(ranks, {{0, 0}, {0, 0}});
    CHECK(kernels_loaded() - before == 2 * all);  // the same devices
  }
  CHECK(!create_one(0, 1, 0, options));
  CHECK(kernels_loaded() - before == 3 * all);

  const long created = nccl_double_calls("CommInitRankConfig");
  for (const bool group : {false, true}) {
    simt::fail_next(cudaErrorNoKernelImageForDevice, "cudaFuncGetAttributes");
    check_failed(group ? create_group({0, 1}, options) : create_one(0, 1, 0, options),
                 SYNCNORM_CUDA_ERROR, {"cudaErrorNoKernelImageForDevice"});
  }
  CHECK(nccl_double_calls("CommInitRankConfig") == created);
}

TEST_CASE("a library that is too old or lacks functions names what to install") {
  const NcclTest test;
  NcclLibrary library{dlopen(SYNCNORM_NCCL_VERSION_ONLY, RTLD_LAZY), 21705, "/old/libnccl.so.2"};
  REQUIRE(library.handle != nullptr);
  const std::string remedy = "pip install nvidia-nccl-cu13";
  check_failed(outcome_of([&] { nccl::load_api(library); }), SYNCNORM_UNSUPPORTED,
               {"2.17.5", "/old/libnccl.so.2", "2.18 or newer", remedy});
  library.version = 22907;
  check_failed(
      outcome_of([&] { nccl::load_api(library); }), SYNCNORM_UNSUPPORTED,
      {"2.29.7", "lacks", "ncclAllReduce", "ncclCommSplit", remedy, "SYNCNORM_NCCL_LIBRARY"});
}

}  // namespace
