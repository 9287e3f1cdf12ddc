// The list of kernels: each is loaded, on the device that is asked for.
#include <dlfcn.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "comm_ranks.hpp"
#include "simt.hpp"
#include "support/cuda_runtime.hpp"
#include "support/kernel_list.hpp"

namespace {

std::vector<std::pair<int, const void*>> loaded;  // device and kernel

}  // namespace

// Replaces that of the simulated runtime in this executable.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  int current = -1;
  static_cast<void>(cudaGetDevice(&current));
  loaded.emplace_back(current, kernel);
  using Function = cudaError_t(cudaFuncAttributes*, const void*);
  static const auto get = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, "cudaFuncGetAttributes"));
  return get(attributes, kernel);
}

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

template <int number>
void kernel() {}

template <int number>
const void* const address = reinterpret_cast<const void*>(&kernel<number>);

[[maybe_unused]] const bool added = [] {
  cuda::KernelList::add(address<1>);
  cuda::KernelList::add(address<2>);
  return true;
}();

bool was_loaded(int device, const void* which) {
  return std::count(loaded.begin(), loaded.end(), std::pair{device, which}) == 1;
}

TEST_CASE("every kernel is loaded once, on the device that is asked for") {
  simt::reset();
  loaded.clear();
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  cuda::load_kernels(1);
  CHECK(loaded.size() == cuda::KernelList::all().size());
  CHECK(was_loaded(1, address<1>));
  CHECK(was_loaded(1, address<2>));
  int current = -1;
  CHECK(cudaGetDevice(&current) == cudaSuccess);
  CHECK(current == 0);
}

TEST_CASE("the list has every kernel of the library, each once") {
  std::vector<const void*> kernels = cuda::KernelList::all();
  std::sort(kernels.begin(), kernels.end());
  CHECK(std::unique(kernels.begin(), kernels.end()) == kernels.end());
  // Four passes, each in four dtypes, two widths and for rows and planes, and more.
  CHECK(kernels.size() > 4 * 4 * 2 * 2);
}

TEST_CASE("a kernel that cannot be loaded") {
  simt::reset();
  simt::fail_next(cudaErrorNoKernelImageForDevice, "cudaFuncGetAttributes");
  check_failed(outcome_of([] { cuda::load_kernels(0); }), SYNCNORM_CUDA_ERROR,
               {"cudaFuncGetAttributes", "cudaErrorNoKernelImageForDevice"});
  CHECK(cudaGetLastError() == cudaSuccess);
}

}  // namespace
