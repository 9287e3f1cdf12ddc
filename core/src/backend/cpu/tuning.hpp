// The numbers of the CPU backend. benchmarks/notes.md says how each was found.
#pragma once

#include <cstdint>

namespace syncnorm::cpu {

// Values whose sums are kept in the arithmetic type before they go on in float64. Part of the
// result's bits, so the same for every instruction set and number of threads.
inline constexpr std::int64_t kChunkValues = 8192;

// Channels last: bytes of x per task, and the most tasks (each needs 2C float64 of workspace).
inline constexpr std::int64_t kRowTaskBytes = 256 * 1024;
inline constexpr std::int64_t kMaxRowTasks = 128;
// Channels last: rows are joined until they are this many values wide.
inline constexpr std::int64_t kRowWidth = 256;

// Channels first: bytes per task of the elementwise pass and of the statistics.
inline constexpr std::int64_t kPlaneTaskBytes = 64 * 1024;

// Group of one, channels first: the bytes of a block of channels that are read once and kept in
// the core's own cache, and the contiguous bytes wanted per sample.
inline constexpr std::int64_t kBlockBytes = 256 * 1024;
inline constexpr std::int64_t kBlockRunBytes = 2048;
// A single channel above this does not stay in the cache between the two passes.
inline constexpr std::int64_t kCacheBytes = 2 * 1024 * 1024;

// How far ahead of its reads a pass over memory prefetches.
inline constexpr std::int64_t kPrefetchBytes = 4096;

// Tensors from this size on are written past the caches.
inline constexpr std::int64_t kStreamBytes = 8 * 1024 * 1024;
// Short runs are not: they begin and end inside cache lines.
inline constexpr std::int64_t kStreamRunBytes = 4096;

inline constexpr int kSpinsBeforeSleep = 2000;

}  // namespace syncnorm::cpu
