// From a call to a kernel: the types and constants that a kernel is compiled for, and its launch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>
#include <utility>

#include "backend/cuda/device/elementwise.cuh"
#include "backend/cuda/device/pack.cuh"
#include "backend/cuda/device/plans.hpp"
#include "support/cuda_runtime.hpp"
#include "support/dispatch.hpp"
#include "support/error.hpp"
#include "support/kernel_list.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

// Calls visit(TypeTag<T>{}) with the device's storage type of dtype.
template <class Visit>
decltype(auto) dispatch_device_type(syncnorm_dtype dtype, Visit&& visit) {
  switch (dtype) {
    case SYNCNORM_FLOAT16: return visit(TypeTag<__half>{});
    case SYNCNORM_BFLOAT16: return visit(TypeTag<__nv_bfloat16>{});
    case SYNCNORM_FLOAT32: return visit(TypeTag<float>{});
    case SYNCNORM_FLOAT64: return visit(TypeTag<double>{});
  }
  fail(SYNCNORM_INTERNAL, "dtype ", static_cast<int>(dtype),
       " reached dispatch; validate missed it");
}

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// Calls visit(TypeTag<T>{}, Constant<V>{}): V = pack values of T per access.
template <class Visit>
void dispatch_pack(syncnorm_dtype dtype, int pack, Visit&& visit) {
  dispatch_device_type(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    if (pack > 1)
      visit(tag, Constant<kPackBytes / static_cast<int>(sizeof(T))>{});
    else
      visit(tag, Constant<1>{});
  });
}

// Calls visit(std::bool_constant<flag>{}).
template <class Visit>
void dispatch_flag(bool flag, Visit&& visit) {
  if (flag)
    visit(std::true_type{});
  else
    visit(std::false_type{});
}

template <class T>
Activation<Arithmetic<T>> activation_of(const syncnorm_options& options) {
  const bool divides = options.in_place != 0 && options.activation == SYNCNORM_LEAKY_RELU;
  return {options.activation, options.in_place != 0,
          static_cast<Arithmetic<T>>(options.negative_slope),
          static_cast<Arithmetic<T>>(divides ? 1.0 / options.negative_slope : 1.0)};
}

struct Grid {
  unsigned blocks;
  int threads;
  cudaStream_t stream;
  // The kernel before this one on the stream is syncnorm's own, of the same call, and everything
  // that this kernel reads before wait_for_kernel_before() was there before that one began.
  bool follows = false;
};

// Puts a kernel on the list when the library is loaded.
template <auto kKernel>
inline const bool kListed = (KernelList::add(reinterpret_cast<const void*>(kKernel)), true);

template <auto kKernel, class... Arguments>
void launch(const Grid& grid, Arguments&&... arguments) {
  (void)kListed<kKernel>;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.blocks);
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.stream = grid.stream;
  config.attrs = &attribute;
  config.numAttrs = grid.follows ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kKernel, std::forward<Arguments>(arguments)...),
             "cudaLaunchKernelEx");
}

}  // namespace syncnorm::cuda
