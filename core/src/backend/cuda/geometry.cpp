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

// Of a tile of channels last: four sectors of memory, which a warp reads in whole cache lines; one
// sector where there would be too few tiles otherwise.
constexpr std::int64_t kTileBytes = 128;
constexpr std::int64_t kLeastTileBytes = 32;
// Threads side by side along a row of channels first, where it is wide enough.
constexpr std::int64_t kRowLanes = 32;

// What an item takes besides its values, in steps of a block over 16 bytes a thread: the first
// loads, the constants and, of sums, the way through shared memory to the last block.
constexpr std::int64_t kItemSteps = 2;
constexpr std::int64_t kSumItemSteps = 4;
// How many items one block works on, at most, so that all blocks have nearly the same work.
constexpr std::int64_t kMaxRounds = 8;

// A view by rows, and how wide a tile is.
struct Columns {
  RowView view;
  std::int64_t tile_width = 0;  // 0: rows do not suit this tensor
  std::int64_t tile_channels = 0;
};

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return divide_up(value, unit) * unit;
}

// Kernels count beyond the end by a block.
constexpr std::int64_t kMostParts = std::numeric_limits<int>::max() - 4096;

int to_int(std::int64_t value) {
  if (value > kMostParts)
    fail(SYNCNORM_UNSUPPORTED, "this shape is divided into ", value,
         " parts, more than the CUDA kernels count; expected fewer channels, or fewer values per "
         "channel, in a call");
  return static_cast<int>(value);
}

bool is_channels_last(const Problem& problem) {
  return problem.layout == SYNCNORM_CHANNELS_LAST || problem.s == 1;
}

Columns columns(const Problem& problem, std::int64_t width, std::int64_t span,
                std::int64_t positions, std::int64_t tile_width, std::int64_t tile_channels) {
  const RowView view{problem.size(), width,
                     problem.c,      to_int(divide_up(problem.size(), width)),
                     to_int(span),   to_int(positions)};
  return {view, tile_width, tile_channels};
}

// Channels last: tiles of whole packs. Where C is not whole packs, positions are joined until a row
// is, and a row is one tile; of many channels its sums would be too many for a block, so that they
// are read value by value.
Columns channels_last(const Problem& problem, std::int64_t v, const PassLimits& pass) {
  const std::int64_t joined = v / std::gcd(problem.c, v);
  const std::int64_t width = joined * problem.c;
  if (joined > 1) {
    if (width > pass.threads * v || problem.c > kMaxTileChannels) return {};
    return columns(problem, width, 1, joined, width, problem.c);
  }
  const std::int64_t pack_bytes = v * static_cast<std::int64_t>(support_of(problem.dtype).size);
  const std::int64_t packs = width / v;
  const auto tile_width = [&](std::int64_t tiles) { return divide_up(packs, tiles) * v; };
  std::int64_t tiles = divide_up(packs, kTileBytes / pack_bytes);
  const std::int64_t most = std::max<std::int64_t>(1, packs * pack_bytes / kLeastTileBytes);
  while (pass.merges && tiles * kMaxSplits < pass.wave && 2 * tiles <= most) tiles *= 2;
  return columns(problem, width, 1, 1, tile_width(tiles), tile_width(tiles));
}

// Channels first, where planes are small: a row is a sample, a tile some whole channels of it.
Columns channels_first(const Problem& problem, std::int64_t v, const PassLimits& pass) {
  const std::int64_t width = problem.c * problem.s;
  const std::int64_t least = v / std::gcd(problem.s, v);  // channels that are whole packs
  const std::int64_t lanes = least * problem.s / v;
  const bool fills_blocks = problem.s % v == 0 && problem.values_per_channel() >= pass.threads * v;
  if (fills_blocks || width % v != 0 || lanes > pass.threads || least > kMaxTileChannels) return {};
  const std::int64_t wanted = least * std::max<std::int64_t>(1, kRowLanes / lanes);
  const std::int64_t channels =
      std::min({wanted, round_up(problem.c, least), std::int64_t{kMaxTileChannels}});
  return columns(problem, width, problem.s, problem.s, channels * problem.s, channels);
}

Columns columns_of(const Problem& problem, std::int64_t v, const PassLimits& pass) {
  return is_channels_last(problem) ? channels_last(problem, v, pass)
                                   : channels_first(problem, v, pass);
}

// Into how many parts each of `groups` is divided, of at most `most` and of at least one step, so
// that the blocks of a wave end together. One after the other they take rounds of items.
std::int64_t best_splits(std::int64_t groups, std::int64_t steps, std::int64_t most,
                         const PassLimits& pass) {
  most = std::min(most, steps);
  const std::int64_t besides = pass.merges ? kSumItemSteps : kItemSteps;
  const auto time = [&](std::int64_t splits) {
    return divide_up(groups * splits, pass.wave) * (divide_up(steps, splits) + besides);
  };
  std::int64_t best = 1;
  for (std::int64_t rounds = 1; rounds <= kMaxRounds; ++rounds) {
    const std::int64_t splits = std::clamp<std::int64_t>(rounds * pass.wave / groups, 1, most);
    if (time(splits) < time(best)) best = splits;
  }
  return best;
}

std::int64_t most_splits(const Problem& problem, std::int64_t groups, std::int64_t channels,
                         const PassLimits& pass) {
  if (!pass.merges) return kMostParts;
  return std::min(max_splits(problem, groups),
                  channels < kManyChannels ? kMaxSplitsOfFew : kMaxSplits);
}

}  // namespace

View view_of(const Problem& problem, bool aligned, int threads) {
  const int v = kPackBytes / static_cast<int>(support_of(problem.dtype).size);
  for (const int pack : {v, 1}) {
    if (pack > 1 && !aligned) continue;
    const bool by_rows = columns_of(problem, pack, {threads, 1, false}).tile_width > 0;
    if (by_rows || !is_channels_last(problem)) return {by_rows, pack};
  }
  fail(SYNCNORM_INTERNAL, "no way was found to divide (N, C, S) = (", problem.n, ", ", problem.c,
       ", ", problem.s, ") among thread blocks");
}

RowPlan row_plan(const Problem& problem, int pack, const PassLimits& pass) {
  const Columns tile = columns_of(problem, pack, pass);
  const std::int64_t rows = tile.view.rows;
  const std::int64_t lanes = tile.tile_width / pack;
  const std::int64_t height = std::clamp<std::int64_t>(rows, 1, pass.threads / lanes);
  const std::int64_t tiles = divide_up(tile.view.width, tile.tile_width);
  const std::int64_t splits = best_splits(
      tiles, divide_up(rows, height), most_splits(problem, tiles, tile.tile_channels, pass), pass);
  const std::int64_t rows_per_split = round_up(divide_up(rows, splits), height);
  const RowPlan plan{tile.view,
                     to_int(rows_per_split),
                     to_int(tile.tile_width),
                     to_int(tile.tile_channels),
                     to_int(tiles),
                     to_int(divide_up(rows, rows_per_split)),
                     to_int(round_up(lanes * height, kWarp))};
  to_int(items_of(plan));
  return plan;
}

PlanePlan plane_plan(const Problem& problem, int pack, const PassLimits& pass) {
  const std::int64_t v = pack;
  const std::int64_t slots = problem.s % v == 0 ? problem.s / v : divide_up(problem.s + v - 1, v);
  const std::int64_t all = to_int(problem.n * slots);
  const std::int64_t threads = std::min<std::int64_t>(round_up(all, kWarp), pass.threads);
  const std::int64_t splits = best_splits(problem.c, divide_up(all, threads),
                                          most_splits(problem, problem.c, 1, pass), pass);
  const std::int64_t slots_per_split = round_up(divide_up(all, splits), threads);
  const PlanePlan plan{{problem.n, problem.c, problem.s, to_int(slots)},
                       to_int(slots_per_split),
                       to_int(divide_up(all, slots_per_split)),
                       to_int(threads)};
  to_int(items_of(plan));
  return plan;
}

bool is_aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % kPackBytes == 0;
  });
}

}  // namespace syncnorm::cuda
