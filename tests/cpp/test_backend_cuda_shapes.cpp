// Sizes on both sides of every way in which the CUDA backend divides a tensor among blocks.
#include "backend/cuda/geometry.hpp"
#include "backend/cuda/scratch.hpp"
#include "backend/cuda/tuning/moments.hpp"
#include "backend_run.hpp"
#include "cuda_device.hpp"

contract::Device& contract::device_under_test() { return cuda_device(); }

namespace contract {
namespace {

using syncnorm::cuda::PlanePlan;
using syncnorm::cuda::RowPlan;

constexpr syncnorm_layout kFirst = SYNCNORM_CHANNELS_FIRST;
constexpr syncnorm_layout kLast = SYNCNORM_CHANNELS_LAST;

Case case_of(syncnorm_dtype dtype, syncnorm_layout layout, std::int64_t n, std::int64_t c,
             std::int64_t s) {
  Case k;
  k.dtype = dtype, k.layout = layout, k.samples = {n}, k.c = c, k.s = s;
  return k;
}

struct Geometry {
  bool by_rows;
  int pack;
  RowPlan rows;
  PlanePlan planes;

  int splits() const { return by_rows ? rows.splits : planes.splits; }
};

// How the first pass of a case is divided on a device that holds 200 blocks at a time.
Geometry geometry_of(const Case& k) {
  const syncnorm::Problem problem{k.samples[0], k.c, k.s, k.dtype, k.layout, k.options};
  const syncnorm::cuda::PassLimits pass{syncnorm::cuda::tuning::kMoments.threads, 200, true};
  const auto [by_rows, pack] = syncnorm::cuda::view_of(problem, k.shift_of_x == 0, pass.threads);
  Geometry geometry{by_rows, pack, {}, {}};
  if (by_rows)
    geometry.rows = syncnorm::cuda::row_plan(problem, pack, pass);
  else
    geometry.planes = syncnorm::cuda::plane_plan(problem, pack, pass);
  return geometry;
}

std::int64_t channels_of_last_tile(const Case& k, const Geometry& geometry) {
  return k.c - (geometry.rows.tiles - 1) * geometry.rows.tile_channels;
}

// With masks, residuals and activations in turn, and in place, since each is a kernel of its own.
void check_variants(Case k) {
  check_case(k, SYNCNORM_FLOAT32);
  k.masked = true, k.options.activation = SYNCNORM_RELU;
  check_case(k, SYNCNORM_FLOAT32);
  k.residual = true, k.options.activation = SYNCNORM_LEAKY_RELU;
  check_case(k, SYNCNORM_FLOAT32);
  k.residual = false, k.options.activation = SYNCNORM_ELU;
  check_case(k, SYNCNORM_FLOAT32);
  k.overwrite = true, k.options.in_place = 1;
  check_case(k, SYNCNORM_FLOAT32);
}

TEST_CASE("channels last: positions joined until a row is whole packs") {
  for (const std::int64_t c : {1, 2, 3, 4, 5, 8, 33, 63}) {
    const Case k = case_of(SYNCNORM_FLOAT32, kLast, 3, c, 11);
    const Geometry geometry = geometry_of(k);
    CHECK(geometry.by_rows);
    CHECK(geometry.pack > 1);
    check_variants(k);
  }
}

TEST_CASE("channels last: a row too wide to join is read value by value") {
  const Case k = case_of(SYNCNORM_FLOAT32, kLast, 3, 65, 11);
  CHECK(geometry_of(k).pack == 1);
  check_variants(k);
  const Case half = case_of(SYNCNORM_BFLOAT16, kLast, 3, 259, 11);
  CHECK(geometry_of(half).pack == 1);
  check_variants(half);
}

TEST_CASE("channels last: several tiles, the last one narrower" * kSmall) {
  for (const std::int64_t c : {44, 260}) {
    const Case k = case_of(SYNCNORM_FLOAT32, kLast, 4, c, 9);
    const Geometry geometry = geometry_of(k);
    CHECK(geometry.rows.tiles > 1);
    CHECK(channels_of_last_tile(k, geometry) < geometry.rows.tile_channels);
    check_variants(k);
  }
  check_variants(case_of(SYNCNORM_FLOAT32, kLast, 4, 128, 9));  // tiles of one width
}

TEST_CASE("channels first: small planes as rows of whole packs") {
  const struct {
    std::int64_t c, s;
  } sizes[] = {{4, 1}, {6, 2}, {4, 3}, {4, 49}, {8, 49}, {20, 36}, {5, 100}, {100, 4}};
  for (const auto& size : sizes) {
    const Case k = case_of(SYNCNORM_FLOAT32, kFirst, 5, size.c, size.s);
    const Geometry geometry = geometry_of(k);
    CHECK(geometry.by_rows);
    CHECK(geometry.pack > 1);
    check_variants(k);
  }
  const Case uneven = case_of(SYNCNORM_FLOAT32, kFirst, 5, 100, 4);
  CHECK(channels_of_last_tile(uneven, geometry_of(uneven)) <
        geometry_of(uneven).rows.tile_channels);
}

TEST_CASE("channels first: planes of whole packs") {
  const Case k = case_of(SYNCNORM_FLOAT32, kFirst, 3, 2, 4096);
  const Geometry geometry = geometry_of(k);
  CHECK_FALSE(geometry.by_rows);
  CHECK(geometry.pack > 1);
  check_variants(k);
}

TEST_CASE("channels first: planes that begin and end within packs") {
  for (const syncnorm_dtype dtype : {SYNCNORM_FLOAT32, SYNCNORM_BFLOAT16})
    for (const std::int64_t s : {1, 2, 3, 5, 7, 9, 15, 17, 49, 1029, 4099}) {
      const Case k = case_of(dtype, kFirst, 3, 3, s);
      if (s > 1) CHECK_FALSE(geometry_of(k).by_rows);
      CHECK(geometry_of(k).pack > 1);
      check_variants(k);
    }
}

TEST_CASE("one position, in both layouts, is one matrix") {
  for (const syncnorm_layout layout : {kFirst, kLast})
    for (const std::int64_t n : {1, 2, 33, 500})
      check_variants(case_of(SYNCNORM_FLOAT32, layout, n, 24, 1));
}

TEST_CASE("several blocks share a channel, and the last one merges" * kSmall) {
  const Case planes = case_of(SYNCNORM_FLOAT32, kFirst, 1, 2, 9001);
  const Case rows = case_of(SYNCNORM_FLOAT32, kFirst, 100, 4, 49);
  const Case last = case_of(SYNCNORM_FLOAT32, kLast, 3, 65, 200);
  for (Case k : {planes, rows, last}) {
    CHECK(geometry_of(k).splits() > 1);
    for (const bool control : {false, true}) {
      k.control = control;
      check_variants(k);
    }
  }
}

TEST_CASE("more partial sums of a channel than a warp has threads") {
  const Case planes = case_of(SYNCNORM_FLOAT32, kFirst, 1, 1, 200003);
  const Case last = case_of(SYNCNORM_FLOAT32, kLast, 1, 3, 70001);
  for (const Case& k : {planes, last}) {
    CHECK(geometry_of(k).splits() > syncnorm::cuda::kWarp);
    check_case(k, SYNCNORM_FLOAT32);
  }
}

TEST_CASE("more channels than blocks may share") {
  const std::int64_t c = syncnorm::cuda::kMaxSplitItems / 2 + 1;
  const Case planes = case_of(SYNCNORM_FLOAT32, kFirst, 1, c, 9);
  CHECK_FALSE(geometry_of(planes).by_rows);
  CHECK(geometry_of(planes).splits() == 1);
  check_case(planes, SYNCNORM_FLOAT32);
}

TEST_CASE("tensors that begin anywhere" * kSmall) {
  for (const syncnorm_dtype dtype : {SYNCNORM_BFLOAT16, SYNCNORM_FLOAT32, SYNCNORM_FLOAT64})
    for (const syncnorm_layout layout : {kFirst, kLast})
      for (const std::int64_t s : {16, 600}) {
        Case k = case_of(dtype, layout, 2, 8, s);
        k.residual = true, k.options.activation = SYNCNORM_RELU;
        const struct {
          std::size_t of_x, of_others;
        } shifts[] = {{1, 0}, {0, 1}, {1, 1}};
        for (const auto& shift : shifts) {
          k.shift_of_x = shift.of_x, k.shift_of_others = shift.of_others;
          CHECK((geometry_of(k).pack > 1) == (shift.of_x == 0));
          check_case(k, parameters_of(dtype));
          Case in_place = k;
          in_place.residual = false, in_place.options.activation = SYNCNORM_ELU;
          in_place.overwrite = true, in_place.options.in_place = 1;
          check_case(in_place, parameters_of(dtype));
        }
      }
}

TEST_CASE("every dtype on rows, planes and tiles" * kSmall) {
  for (const syncnorm_dtype dtype : {SYNCNORM_FLOAT16, SYNCNORM_BFLOAT16, SYNCNORM_FLOAT64}) {
    check_case(case_of(dtype, kFirst, 3, 16, 49), parameters_of(dtype));
    check_case(case_of(dtype, kFirst, 3, 3, 1029), parameters_of(dtype));
    check_case(case_of(dtype, kFirst, 3, 2, 4096), parameters_of(dtype));
    check_case(case_of(dtype, kLast, 3, 520, 17), parameters_of(dtype));
    check_case(case_of(dtype, kLast, 3, 3, 1029), parameters_of(dtype));
  }
}

}  // namespace
}  // namespace contract
