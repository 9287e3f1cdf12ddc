#include "engine/crew.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <numeric>
#include <utility>

namespace simt {
namespace {

#if defined(SIMT_ASAN) || defined(SIMT_TSAN)
constexpr std::size_t kStackSize = 128 << 10;
#else
constexpr std::size_t kStackSize = 64 << 10;
#endif
constexpr std::uint64_t kCanary = 0x5e1f'0e5e'ca11'ab1e;
constexpr std::size_t kMostKept = 1024;  // threads

}  // namespace

// One stack more in front: who uses up the first is to be found alive.
Crew::Crew(std::size_t threads) : threads_(threads), bytes_((threads + 1) * kStackSize) {
  const Overlooked overlooked;
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<std::byte*>(memory);
  for (std::size_t i = 0; i < threads; ++i) std::memcpy(stack(i), &kCanary, sizeof(kCanary));
  for (std::size_t i = 0; kThreadSanitizer && i < threads; ++i) observers_.emplace_back();
}

Crew::~Crew() {
  clear();
  munmap(memory_, bytes_);
}

void Crew::clear() {
#ifdef SIMT_ASAN
  __asan_unpoison_memory_region(memory_, bytes_);  // fibres end in the middle of their functions
#endif
}

std::byte* Crew::stack(std::size_t i) const { return memory_ + (i + 1) * kStackSize; }
std::size_t Crew::stack_size() { return kStackSize; }
bool Crew::overflowed(std::size_t i) const {
  return std::memcmp(stack(i), &kCanary, sizeof(kCanary)) != 0;
}

const Observer& Crew::publisher() { return publisher_ ? *publisher_ : publisher_.emplace(); }

Crews& Crews::get() {
  static Crews& crews = *new Crews;  // never destroyed: kernels may run while the process exits
  return crews;
}

std::unique_ptr<Crew> Crews::take(std::size_t threads) {
  std::unique_ptr<Crew> taken;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find(kept_, threads, &Crew::threads);
    if (found != kept_.end()) {
      taken = std::move(*found);
      kept_.erase(found);
    }
  }
  if (taken == nullptr) return std::make_unique<Crew>(threads);
  taken->clear();
  return taken;
}

void Crews::give(std::unique_ptr<Crew> crew) {
  const std::lock_guard lock(mutex_);
  kept_.push_back(std::move(crew));
  const auto threads = [](std::size_t sum, const auto& kept) { return sum + kept->threads(); };
  while (kept_.size() > 1 &&
         std::accumulate(kept_.begin(), kept_.end(), std::size_t{0}, threads) > kMostKept)
    kept_.erase(kept_.begin());
}

}  // namespace simt
