// Why there are no CUDA devices: the reason that the capabilities and the errors give.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <string>

#include "backend/cuda/device_limits.hpp"
#include "comm_ranks.hpp"
#include "simt.hpp"
#include "support/cuda_devices.hpp"
#include "syncnorm/syncnorm.h"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

syncnorm_capabilities capabilities() {
  syncnorm_capabilities found = SYNCNORM_CAPABILITIES_INIT;
  REQUIRE(syncnorm_query_capabilities(&found) == SYNCNORM_OK);
  return found;
}

// The capabilities have the reason, and an error that needs a device has it too.
void check_no_devices(const std::string& problem) {
  const syncnorm_capabilities found = capabilities();
  CHECK(found.cuda_built == 1);
  CHECK(found.cuda_devices == 0);
  CHECK(std::string(found.cuda_problem) == problem);
  check_failed(outcome_of([] { require_cuda_devices(); }), SYNCNORM_CUDA_ERROR, {problem});
  // Device 7 is asked for nowhere else: what is known of a device stays known.
  check_failed(outcome_of([] { cuda::limits_of(7); }), SYNCNORM_CUDA_ERROR, {problem});
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("devices that are there") {
  simt::reset();
  const syncnorm_capabilities found = capabilities();
  CHECK(found.cuda_devices == 2);
  CHECK(std::string(found.cuda_problem).empty());
  CHECK(require_cuda_devices() == 2);
  check_failed(outcome_of([] { cuda::limits_of(7); }), SYNCNORM_CUDA_ERROR,
               {"device_index is 7", "2 CUDA devices"});
}

TEST_CASE("a driver that is too old") {
  simt::reset();
  simt::set_driver_version(12040);
  const std::string built = concat("CUDA ", CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10);
  check_no_devices(
      concat("the NVIDIA driver is too old: it supports CUDA 12.4, and this build of "
             "syncnorm uses the runtime of ",
             built, "; update the driver, or build syncnorm with CUDA 12.4 or older"));
  simt::reset();
}

TEST_CASE("no driver") {
  simt::reset();
  simt::set_driver_version(0);
  check_no_devices("no NVIDIA driver is installed, or this container has no access to it");
  simt::reset();
}

TEST_CASE("a driver without devices") {
  simt::reset();
  simt::set_device_count(0);
  check_no_devices("the NVIDIA driver reports no CUDA device");
  setenv("CUDA_VISIBLE_DEVICES", "-1", 1);
  check_no_devices("the NVIDIA driver reports no CUDA device (CUDA_VISIBLE_DEVICES is \"-1\")");
  unsetenv("CUDA_VISIBLE_DEVICES");
  simt::reset();
}

TEST_CASE("another error of the CUDA runtime") {
  simt::reset();
  simt::fail_next(cudaErrorUnknown, "cudaGetDeviceCount");
  const syncnorm_capabilities found = capabilities();
  CHECK(found.cuda_devices == 0);
  CHECK(std::string(found.cuda_problem).find("cudaGetDeviceCount failed: cudaErrorUnknown") == 0);
  CHECK(cudaGetLastError() == cudaSuccess);
}

// A driver for another minor version of CUDA, for example.
TEST_CASE("a driver that refuses although it is new enough") {
  simt::reset();
  simt::fail_next(cudaErrorInsufficientDriver, "cudaGetDeviceCount");
  const std::string problem = find_cuda_devices().problem;
  CHECK(problem.find("cudaGetDeviceCount failed: cudaErrorInsufficientDriver") == 0);
}

TEST_CASE("the texts stay valid") {
  simt::reset();
  simt::set_driver_version(0);
  const char* const before = capabilities().cuda_problem;
  const std::string text = before;
  simt::set_driver_version(12000);
  CHECK(std::string(capabilities().cuda_problem) != text);
  CHECK(before == text);
  simt::reset();
}

}  // namespace
