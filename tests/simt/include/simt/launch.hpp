// The parts of the runtime's interface that are C++ templates.
#pragma once

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "simt/thread.hpp"

namespace simt {

// `thread` is run once by every CUDA thread of the grid.
SIMT_API cudaError_t launch(const cudaLaunchConfig_t* config, const void* kernel,
                            std::function<void()> thread);

template <class F>
const void* address_of(F* function) {
  return reinterpret_cast<const void*>(function);
}

}  // namespace simt

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  // Copied now, converted to the types of the parameters, as the runtime does. Every CUDA thread
  // has its own copy of them.
  std::tuple<std::remove_cv_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  return simt::launch(config, simt::address_of(kernel),
                      [kernel, values = std::move(values)] { std::apply(kernel, values); });
}

template <class F>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, F* kernel,
                                           const cudaLaunchConfig_t* config) {
  return cudaOccupancyMaxActiveClusters(clusters, simt::address_of(kernel), config);
}

template <class T>
cudaError_t cudaMalloc(T** memory, std::size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(memory), bytes);
}

template <class F>
cudaError_t cudaFuncSetAttribute(F* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(simt::address_of(kernel), attribute, value);
}
template <class F>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, F* kernel) {
  return cudaFuncGetAttributes(attributes, simt::address_of(kernel));
}
template <class F>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, F* kernel, int threads,
                                                          std::size_t dynamic_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, simt::address_of(kernel), threads,
                                                       dynamic_bytes);
}
template <class F>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, F* kernel,
                                                                   int threads,
                                                                   std::size_t dynamic_bytes,
                                                                   unsigned flags) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, simt::address_of(kernel),
                                                                threads, dynamic_bytes, flags);
}
