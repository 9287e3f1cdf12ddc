// In which order things happen that CUDA leaves open: as they are numbered, or drawn by a seed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

class Order {
 public:
  // Seed 0 is the order of the numbers.
  explicit Order(std::uint64_t seed) : drawn_(seed != 0), state_(seed) {}

  bool drawn() const { return drawn_; }
  // One of 0 ... count - 1.
  std::size_t next(std::size_t count) { return drawn_ ? random() % count : 0; }
  // True once in `odds` times, and never in the order of the numbers.
  bool once_in(std::uint64_t odds) { return drawn_ && random() % odds == 0; }
  std::uint64_t random() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

 private:
  bool drawn_;
  std::uint64_t state_;
};

}  // namespace simt
