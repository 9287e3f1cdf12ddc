#include "backend/cuda/geometry.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>

#include "backend/cuda/scratch.hpp"
#include "plan/support_table.hpp"
#include "support/error.hpp"

namespace syncnorm::cuda {
namespace {

constexpr std::int64_t kRowLanes = 32;  // threads side by side along a row, where it is wide enough

// A view by rows, and how wide a block's part of it is.
struct Columns {
  RowView view;
  int tile_width = 0;  // 0: rows do not suit this tensor
  int tile_channels = 0;
};

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return divide_up(value, unit) * unit;
}

Columns columns(const Problem& problem, std::int64_t width, std::int64_t span,
                std::int64_t positions, std::int64_t tile_width, std::int64_t tile_channels) {
  return {{problem.size(), width, divide_up(problem.size(), width), span, problem.c, positions},
          static_cast<int>(tile_width),
          static_cast<int>(tile_channels)};
}

// Channels last. Positions are joined until a row is whole packs; a row that is then too wide for
// one tile would scatter its channels over several, so it is not joined.
Columns channels_last(const Problem& problem, std::int64_t v, std::int64_t threads) {
  const std::int64_t joined = v / std::gcd(problem.c, v);
  const std::int64_t width = joined * problem.c;
  if (joined > 1) {
    if (width > threads * v || problem.c > kMaxTileChannels) return {};
    return columns(problem, width, 1, joined, width, problem.c);
  }
  const std::int64_t lanes = width / v;
  const std::int64_t tiles = divide_up(lanes, std::max(kRowLanes, kMaxTileChannels / 2 / v));
  const std::int64_t tile_width = divide_up(lanes, tiles) * v;
  return columns(problem, width, 1, 1, tile_width, tile_width);
}

// Channels first, where planes are small: a row is a sample, a tile some whole channels of it.
Columns channels_first(const Problem& problem, std::int64_t v, std::int64_t threads) {
  const std::int64_t width = problem.c * problem.s;
  const std::int64_t least = v / std::gcd(problem.s, v);  // channels that are whole packs
  const std::int64_t lanes = least * problem.s / v;
  if (width % v != 0 || lanes > threads) return {};
  const std::int64_t wanted = least * std::max<std::int64_t>(1, kRowLanes / lanes);
  const std::int64_t channels = std::min({wanted, round_up(problem.c, least), kMaxTileChannels});
  return columns(problem, width, problem.s, problem.s, channels * problem.s, channels);
}

bool is_channels_last(const Problem& problem) {
  return problem.layout == SYNCNORM_CHANNELS_LAST || problem.s == 1;
}

Columns columns_of(const Problem& problem, std::int64_t v, std::int64_t threads) {
  return is_channels_last(problem) ? channels_last(problem, v, threads)
                                   : channels_first(problem, v, threads);
}

int to_int(std::int64_t value) {
  if (value > std::numeric_limits<int>::max())
    fail(SYNCNORM_UNSUPPORTED, "this shape needs ", value,
         " thread blocks, more than a CUDA grid has; expected fewer channels per call");
  return static_cast<int>(value);
}

// Into how many parts `units` are divided, so that with `groups` of them there are `blocks`.
std::int64_t splits_for(const Problem& problem, std::int64_t groups, std::int64_t units,
                        std::int64_t blocks) {
  const std::int64_t most = std::min(max_splits(problem, groups), std::max<std::int64_t>(1, units));
  return std::clamp<std::int64_t>(blocks / groups, 1, most);
}

RowPlan row_plan(const Problem& problem, const Columns& columns, std::int64_t v,
                 std::int64_t threads, std::int64_t blocks) {
  const std::int64_t rows = columns.view.rows;
  const std::int64_t lanes = columns.tile_width / v;
  const std::int64_t height = std::clamp<std::int64_t>(rows, 1, threads / lanes);
  RowPlan plan{columns.view, 0, columns.tile_width, columns.tile_channels, 0, 0, 0};
  plan.threads = to_int(round_up(lanes * height, kWarp));
  plan.tiles = to_int(divide_up(columns.view.width, columns.tile_width));
  const std::int64_t splits = splits_for(problem, plan.tiles, divide_up(rows, height), blocks);
  plan.rows_per_split = round_up(divide_up(rows, splits), height);
  plan.splits = to_int(divide_up(rows, plan.rows_per_split));
  return plan;
}

PlanePlan plane_plan(const Problem& problem, std::int64_t v, std::int64_t threads,
                     std::int64_t blocks) {
  const std::int64_t slots = problem.s % v == 0 ? problem.s / v : divide_up(problem.s + v - 1, v);
  const std::int64_t all = problem.n * slots;
  PlanePlan plan{{problem.n, problem.c, problem.s, slots}, 0, 0, 0};
  plan.threads = to_int(std::min(round_up(all, kWarp), threads));
  const std::int64_t splits = splits_for(problem, problem.c, divide_up(all, plan.threads), blocks);
  plan.slots_per_split = round_up(divide_up(all, splits), plan.threads);
  plan.splits = to_int(divide_up(all, plan.slots_per_split));
  return plan;
}

std::int64_t bytes_of(const Problem& problem) {
  return problem.size() * static_cast<std::int64_t>(support_of(problem.dtype).size);
}

}  // namespace

unsigned Geometry::blocks() const { return static_cast<unsigned>(to_int(groups() * splits())); }

std::int64_t Geometry::pieces() const {
  if (!by_rows) return planes.slots_per_split / planes.threads;
  const int lanes = rows.tile_width / pack;
  return divide_up(rows.rows_per_split, rows.threads / lanes);
}

Geometry divide(const Problem& problem, bool aligned, int threads, std::int64_t blocks) {
  const int v = kPackBytes / static_cast<int>(support_of(problem.dtype).size);
  Geometry geometry{};
  for (const int pack : {v, 1}) {
    if (pack > 1 && !aligned) continue;
    const Columns tiles = columns_of(problem, pack, threads);
    geometry.by_rows = tiles.tile_width > 0;
    geometry.pack = pack;
    if (geometry.by_rows)
      geometry.rows = row_plan(problem, tiles, pack, threads, blocks);
    else if (!is_channels_last(problem))
      geometry.planes = plane_plan(problem, pack, threads, blocks);
    else
      continue;
    return geometry;
  }
  fail(SYNCNORM_INTERNAL, "no way was found to divide (N, C, S) = (", problem.n, ", ", problem.c,
       ", ", problem.s, ") among thread blocks");
}

Geometry divide(const Problem& problem, bool aligned, const Tuning& tuning,
                const DeviceLimits& limits) {
  const std::int64_t wanted =
      std::min(static_cast<std::int64_t>(limits.multiprocessors) * tuning.blocks_per_sm,
               bytes_of(problem) / tuning.block_bytes);
  return divide(problem, aligned, tuning.threads, wanted);
}

bool is_aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % kPackBytes == 0;
  });
}

}  // namespace syncnorm::cuda
