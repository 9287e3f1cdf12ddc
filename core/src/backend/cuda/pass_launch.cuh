// The launch of a pass, over rows or over planes as the tensor was divided.
#pragma once

#include "backend/cuda/call.hpp"
#include "backend/cuda/device/planes.cuh"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/geometry.hpp"
#include "backend/cuda/launch.cuh"

namespace syncnorm::cuda {

// Kernels around sum_rows and sum_planes.
template <int V, class Terms, class RowKernel, class PlaneKernel>
void launch_sums(const Call& call, const Geometry& geometry, RowKernel* of_rows,
                 PlaneKernel* of_planes, const Terms& terms, const Merge& merge) {
  Grid grid{geometry.blocks(), geometry.threads(), 0, call.stream};
  if (!geometry.by_rows) return launch(of_planes, grid, terms, geometry.planes, merge);
  grid.shared_bytes = row_sums_bytes<Terms, V>(geometry.rows.tile_channels, geometry.threads());
  launch(of_rows, grid, terms, geometry.rows, merge);
}

// Kernels around map_rows and map_planes.
template <class Map, class RowKernel, class PlaneKernel>
void launch_map(const Call& call, const Geometry& geometry, RowKernel* of_rows,
                PlaneKernel* of_planes, const Map& map) {
  Grid grid{geometry.blocks(), geometry.threads(), 0, call.stream};
  if (!geometry.by_rows) return launch(of_planes, grid, map, geometry.planes);
  grid.shared_bytes = constants_bytes<typename Map::Constant>(geometry.rows.tile_channels);
  launch(of_rows, grid, map, geometry.rows);
}

}  // namespace syncnorm::cuda
