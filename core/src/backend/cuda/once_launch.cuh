// What the launches of the single pass share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/call.hpp"
#include "backend/cuda/device/once.cuh"
#include "backend/cuda/geometry.hpp"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/tuning/once.hpp"

namespace syncnorm::cuda {

// Divided among as many blocks as wait for each other on the device.
inline Geometry divide_once(const Call& call, bool aligned) {
  return divide(call.problem, aligned, tuning::kOnceThreads,
                static_cast<std::int64_t>(call.limits.multiprocessors) * tuning::kOnceBlocksPerSm);
}

template <class Terms, class Map, int V>
std::size_t once_bytes(const Geometry& geometry) {
  const std::size_t chip = chip_bytes<Terms, V>(geometry.pieces(), geometry.threads());
  if (!geometry.by_rows) return chip;
  const int channels = geometry.rows.tile_channels;
  return chip + constants_bytes<typename Map::Constant>(channels) +
         row_sums_bytes<Terms, V>(channels, geometry.threads());
}

// Whether the whole grid is on the device at once.
template <class Kernel>
bool fits(const Call& call, Kernel* kernel, const Grid& grid) {
  if (grid.shared_bytes > call.limits.shared_per_block) return false;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(grid.shared_bytes)),
             "cudaFuncSetAttribute");
  int per_sm = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, grid.threads,
                                                           grid.shared_bytes),
             "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return grid.blocks <= static_cast<std::int64_t>(per_sm) * call.limits.multiprocessors;
}

// false: the tensor does not fit; nothing was launched.
template <class Kernel, class... Arguments>
bool launch_once(const Call& call, Kernel* kernel, const Geometry& geometry, std::size_t bytes,
                 const Arguments&... arguments) {
  const Grid grid{geometry.blocks(), geometry.threads(), bytes, call.stream, true};
  if (!fits(call, kernel, grid)) return false;
  launch(kernel, grid, arguments...);
  return true;
}

}  // namespace syncnorm::cuda
