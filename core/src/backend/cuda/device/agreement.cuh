// Whether the ranks sent the same wires, as far as their hashes tell.
#pragma once

#include <cstdint>

#include "backend/cuda/device/in_flight.cuh"
#include "math/channel.hpp"
#include "math/wire.hpp"

namespace syncnorm::cuda {

// Holds until an exchange is expected; the hashes are on their way from then on.
class Agreement {
 public:
  __device__ explicit Agreement(std::int64_t group_size) : group_size_(group_size) {}

  // hash_at: where the hash stands in this kind of wire; its square follows.
  __device__ void expect(const double* wire, const double* total, std::int64_t hash_at) {
    expected_ = true;
    own_.load(wire + hash_at);
    first_.load(total, hash_at);
  }
  // The second exchange of the same forward pass.
  __device__ void expect_center(const double* center_total) {
    centered_ = true;
    center_.load(center_total, CenterWire::kHash);
  }

  __device__ bool holds() const {
    if (!expected_) return true;
    const double h = own_.get();
    return first_.agree(h, group_size_) &&
           (!centered_ || center_.agree(center_hash(h), group_size_));
  }

 private:
  struct Sums {
    InFlight<double> of_hashes, of_squares;

    __device__ void load(const double* total, std::int64_t hash_at) {
      of_hashes.load(total + hash_at);
      of_squares.load(total + hash_at + 1);
    }
    __device__ bool agree(double h, std::int64_t group_size) const {
      return syncnorm::ranks_agree(h, of_hashes.get(), of_squares.get(), group_size);
    }
  };

  std::int64_t group_size_;
  bool expected_ = false, centered_ = false;
  InFlight<double> own_;
  Sums first_, center_;
};

}  // namespace syncnorm::cuda
