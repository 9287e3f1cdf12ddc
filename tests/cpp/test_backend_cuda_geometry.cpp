// What can be told of a launch without a device: how the tensors that people train on are divided
// among the blocks of an H200. The times that follow from it stand in benchmarks/gpu/model.py.
#include <doctest/doctest.h>

#include <algorithm>
#include <initializer_list>
#include <string>

#include "backend/cuda/geometry.hpp"
#include "backend/cuda/scratch.hpp"
#include "backend/cuda/tuning/grad_input.hpp"
#include "backend/cuda/tuning/grad_moments.hpp"
#include "backend/cuda/tuning/moments.hpp"
#include "backend/cuda/tuning/normalize.hpp"
#include "plan/support_table.hpp"
#include "support/error.hpp"

namespace {

using namespace syncnorm::cuda;
using syncnorm::Problem;

constexpr std::int64_t kMultiprocessors = 132;
constexpr std::int64_t kKilobyte = 1024;

struct Shape {
  std::int64_t n, c, s;
};

// Of ResNet-50 on images of 224x224: channels, and positions of an image.
constexpr Shape kResnet50[] = {{32, 64, 112 * 112}, {32, 64, 56 * 56},  {32, 256, 56 * 56},
                               {32, 128, 56 * 56},  {32, 128, 28 * 28}, {32, 512, 28 * 28},
                               {32, 256, 28 * 28},  {32, 256, 14 * 14}, {32, 1024, 14 * 14},
                               {32, 512, 14 * 14},  {32, 512, 7 * 7},   {32, 2048, 7 * 7}};
// Segmentation, 3-D, points, and a matrix.
constexpr Shape kOthers[] = {{4, 256, 128 * 256}, {2, 19, 512 * 1024}, {2, 32, 128 * 128 * 128},
                             {2, 320, 4 * 4 * 4}, {400'000, 64, 1},    {8192, 4096, 1}};
constexpr syncnorm_layout kLayouts[] = {SYNCNORM_CHANNELS_FIRST, SYNCNORM_CHANNELS_LAST};

Problem problem_of(const Shape& shape, syncnorm_dtype dtype, syncnorm_layout layout) {
  return {shape.n, shape.c, shape.s, dtype, layout, syncnorm_options{}};
}

// What becomes of a pass on the device.
struct Figures {
  double waves;         // of blocks
  double idle;          // share of the time in which a block waits for the last to end
  std::int64_t splits;  // blocks that share a channel
  std::int64_t merge;   // rounds of loads of one merging thread, one after another
  double in_flight;     // bytes under way on one multiprocessor
};

template <class Plan>
Figures figures(const Plan& plan, std::int64_t threads, std::int64_t steps, std::int64_t channels,
                const Tuning& tuning, std::int64_t tensors) {
  const std::int64_t items = items_of(plan);
  const std::int64_t wave = kMultiprocessors * tuning.blocks_per_sm;
  const std::int64_t blocks = std::min(items, wave);
  const std::int64_t rounds = divide_up(items, blocks);
  const int sums = static_cast<int>(2 * channels);
  const std::int64_t loads = divide_up(plan.splits, merge_ways(sums, plan.threads));
  const auto ahead = static_cast<double>(std::min<std::int64_t>(tuning.depth, steps));
  return {static_cast<double>(blocks) / static_cast<double>(wave),
          1 - static_cast<double>(items) / static_cast<double>(rounds * blocks), plan.splits,
          divide_up(loads, kMergeLoads),
          ahead * kPackBytes * static_cast<double>(threads * tensors * blocks) /
              static_cast<double>(kMultiprocessors)};
}

Figures figures_of(const Problem& problem, const Tuning& tuning, bool merges,
                   std::int64_t tensors) {
  const PassLimits pass{tuning.threads, kMultiprocessors * tuning.blocks_per_sm, merges};
  const View view = view_of(problem, true, pass.threads);
  REQUIRE(view.pack > 1);
  if (view.by_rows) {
    const RowPlan plan = row_plan(problem, view.pack, pass);
    const std::int64_t lanes = plan.tile_width / view.pack, height = plan.threads / lanes;
    return figures(plan, lanes * height, divide_up(plan.rows_per_split, height), plan.tile_channels,
                   tuning, tensors);
  }
  const PlanePlan plan = plane_plan(problem, view.pack, pass);
  return figures(plan, plan.threads, divide_up(plan.slots_per_split, plan.threads), 1, tuning,
                 tensors);
}

// visit(problem) for every dtype and layout.
template <class Shapes, class Visit>
void for_each_problem(std::initializer_list<syncnorm_dtype> dtypes, const Shapes& shapes,
                      Visit&& visit) {
  for (const Shape& shape : shapes)
    for (const syncnorm_dtype dtype : dtypes)
      for (const syncnorm_layout layout : kLayouts) {
        INFO("N ", shape.n, " C ", shape.c, " S ", shape.s, " dtype ", dtype, " layout ", layout);
        visit(problem_of(shape, dtype, layout));
      }
}

void check_sums(const Problem& problem, const Tuning& tuning, std::int64_t tensors,
                std::int64_t most_splits) {
  const Figures sums = figures_of(problem, tuning, true, tensors);
  const auto bytes =
      static_cast<double>(problem.size() * tensors *
                          static_cast<std::int64_t>(syncnorm::support_of(problem.dtype).size));
  CAPTURE(tensors);
  CHECK(sums.waves <= 1.05);
  CHECK(sums.splits <= most_splits);
  CHECK(sums.merge <= 6);
  // Or most of all that there is.
  CHECK(sums.in_flight >= std::min(32.0 * kKilobyte, 0.6 * bytes / kMultiprocessors));
}

}  // namespace

TEST_CASE("the sums of ResNet-50: one wave, short merges, enough bytes under way") {
  for_each_problem({SYNCNORM_BFLOAT16, SYNCNORM_FLOAT32}, kResnet50, [](const Problem& problem) {
    check_sums(problem, tuning::kMoments, 1, 128);
    check_sums(problem, tuning::kGradMoments, 2, 128);
    check_sums(problem, tuning::kGradMomentsFromInput, 2, 128);
    check_sums(problem, tuning::kGradMomentsFromOutput, 3, 128);
  });
}

TEST_CASE("the same of other tensors") {
  for_each_problem({SYNCNORM_BFLOAT16, SYNCNORM_FLOAT16, SYNCNORM_FLOAT32}, kOthers,
                   [](const Problem& problem) {
                     check_sums(problem, tuning::kMoments, 1, kMaxSplitsOfFew);
                     check_sums(problem, tuning::kGradMoments, 2, kMaxSplitsOfFew);
                   });
}

TEST_CASE("more of one channel than the kernels count is refused") {
  const Problem problem =
      problem_of({1, 1, std::int64_t{1} << 34}, SYNCNORM_BFLOAT16, SYNCNORM_CHANNELS_FIRST);
  const PassLimits pass{tuning::kMoments.threads, kMultiprocessors, true};
  CHECK_THROWS_WITH_AS(plane_plan(problem, 8, pass), doctest::Contains("expected fewer channels"),
                       syncnorm::Error);
}

TEST_CASE("the elementwise passes: one wave, and the blocks end together") {
  for_each_problem({SYNCNORM_BFLOAT16, SYNCNORM_FLOAT32}, kResnet50, [](const Problem& problem) {
    for (const Tuning& tuning : {tuning::kNormalize, tuning::kGradInput}) {
      const Figures map = figures_of(problem, tuning, false, 1);
      CHECK(map.waves <= 1.05);
      CHECK(map.idle <= 0.15);
    }
  });
}
