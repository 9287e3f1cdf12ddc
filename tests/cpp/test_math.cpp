#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "doctest/doctest.h"
#include "math/moments.hpp"
#include "math/normalization.hpp"
#include "math/statistics.hpp"
#include "math/wire.hpp"
#include "plan/signature.hpp"

using namespace syncnorm;

namespace {

Problem example() {
  return {4, 8, 9, SYNCNORM_FLOAT32, SYNCNORM_CHANNELS_FIRST, SYNCNORM_OPTIONS_INIT};
}

template <class Change>
double hash_after(Change&& change) {
  Problem problem = example();
  change(problem);
  return call_hash(problem, Pass::kForward);
}

}  // namespace

TEST_CASE("moments of two sets join to the moments of their union") {
  // {1, 3, 2, 6} and {9}: mean 4.2, variance 8.56 (the unequal shards of docs/mathematics.md).
  const Moments a = moments_from_shifted(4, 2.0, 4.0, 18.0);  // of x - 2: -1 1 0 4
  CHECK(a.mean == 3.0);
  CHECK(a.m2 == 14.0);
  const Moments b = moments_from_shifted(1, 0.0, 9.0, 81.0);
  for (const Moments& all : {merge(a, b), merge(b, a)}) {
    CHECK(all.count == 5);
    CHECK(all.mean == doctest::Approx(4.2).epsilon(1e-15));
    CHECK(variance(all) == doctest::Approx(8.56).epsilon(1e-15));
  }
  CHECK(merge(a, Moments{}).m2 == a.m2);
  CHECK(merge(Moments{}, b).mean == 9.0);
  CHECK(variance(Moments{}) == 0.0);
}

TEST_CASE("clamps let NaN through") {
  CHECK(clamp_negative(-1e-20) == 0.0);
  CHECK(std::isnan(clamp_negative(std::nan(""))));
  CHECK(std::isnan(inverse_deviation(std::nan(""), 1e-5, SYNCNORM_EPS_MAX).invstd));
}

TEST_CASE("the weight of a rank") {
  CHECK(rank_weight(SYNCNORM_WEIGHT_COUNT, 12, 3) == 12);
  CHECK(rank_weight(SYNCNORM_WEIGHT_EQUAL, 12, 3) == 1);
  CHECK(rank_weight(SYNCNORM_WEIGHT_BATCH, 12, 3) == 3);
  for (const auto weighting : {SYNCNORM_WEIGHT_COUNT, SYNCNORM_WEIGHT_EQUAL, SYNCNORM_WEIGHT_BATCH})
    CHECK(rank_weight(weighting, 0, 3) == 0);
  CHECK(rank_factor(0, 0, 5) == 0);
  CHECK(rank_factor(4, 4, 5) == 0.2);
}

TEST_CASE("the factor on the running variance is 1 where its count allows no other") {
  CHECK(variance_factor(SYNCNORM_VARIANCE_UNBIASED, 4, 5, 2) == 1.25);
  CHECK(variance_factor(SYNCNORM_VARIANCE_BIASED, 4, 5, 2) == 1.0);
  CHECK(variance_factor(SYNCNORM_VARIANCE_UNBIASED_LOCAL, 4, 5, 2) == 8.0 / 7.0);
  CHECK(variance_factor(SYNCNORM_VARIANCE_UNBIASED_RANK, 4, 5, 2) == 4.0 / 3.0);
  CHECK(variance_factor(SYNCNORM_VARIANCE_UNBIASED, 1, 1, 1) == 1.0);
  CHECK(variance_factor(SYNCNORM_VARIANCE_UNBIASED_RANK, 0, 5, 2) == 1.0);
  CHECK(variance_factor(SYNCNORM_VARIANCE_UNBIASED_LOCAL, 0, 5, 2) == 1.0);
}

TEST_CASE("counting batches never wraps, and never divides by zero") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  CHECK(next_batch(0) == 1);
  CHECK(next_batch(41) == 42);
  CHECK(next_batch(most - 1) == most);
  CHECK(next_batch(most) == most);
  CHECK(next_batch(-1) == 1);
  CHECK(next_batch(std::numeric_limits<std::int64_t>::min()) == 1);
}

TEST_CASE("eps is added, or is the least variance") {
  CHECK(inverse_deviation(3, 1, SYNCNORM_EPS_ADD).invstd == 0.5);
  CHECK(inverse_deviation(4, 1, SYNCNORM_EPS_MAX).invstd == 0.5);
  CHECK(inverse_deviation(4, 1, SYNCNORM_EPS_MAX).gate == 1.0);
  CHECK(inverse_deviation(0.25, 4, SYNCNORM_EPS_MAX).invstd == 0.5);
  CHECK(inverse_deviation(0.25, 4, SYNCNORM_EPS_MAX).gate == 0.0);
}

TEST_CASE("in place a weight keeps away from zero, with its sign") {
  constexpr double kLeast = SYNCNORM_IN_PLACE_LEAST_WEIGHT;
  CHECK(kLeast == 0x1p-12);
  for (const double small : {0.0, -0.0, 1e-300, kLeast / 2, kLeast}) {
    CHECK(applied_weight(small, true) == kLeast);
    CHECK(applied_weight(small, false) == small);
  }
  CHECK(applied_weight(-1e-300, true) == -kLeast);
  CHECK(applied_weight(-2 * kLeast, true) == -2 * kLeast);
  CHECK(applied_weight(3.0, true) == 3.0);
  CHECK(std::isnan(applied_weight(std::nan(""), true)));
}

TEST_CASE("in place xhat comes from the output") {
  const Standardization s = standardization_in_place(4, 1);
  CHECK((9 - s.origin) * s.unit == 2.0);  // y = 2*4 + 1
}

TEST_CASE("elu is rounded to -1 below its saturation, and not above") {
  const double z = elu_saturation(24);
  CHECK(static_cast<float>(std::expm1(z - 0.01)) == -1.0f);
  CHECK(static_cast<float>(std::expm1(z + 0.01)) > -1.0f);
}

TEST_CASE("the mean keeps more than the precision of float32") {
  const double mean = 1.0 + 0x1p-40;
  CHECK(static_cast<double>(mean_hi<float>(mean)) + static_cast<double>(mean_lo<float>(mean)) ==
        mean);
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(mean_lo<float>(infinity) == 0.0f);
  CHECK(mean_lo<float>(std::nan("")) == 0.0f);
}

TEST_CASE("ranks agree exactly when all hashes are equal") {
  for (const double h : {1.0, 2.0, 40503.0, 65535.0})
    for (const std::int64_t ranks : {1, 2, 3, 7, 1000, 100000}) {
      const auto n = static_cast<double>(ranks);
      CHECK(ranks_agree(h, n * h, n * h * h, ranks));
      const double other = h == 1.0 ? 2.0 : h - 1.0;
      CHECK_FALSE(ranks_agree(other, n * h, n * h * h, ranks));
      CHECK_FALSE(ranks_agree(h, 0, 0, ranks));  // a sum that nobody wrote
      if (ranks == 1) continue;
      CHECK_FALSE(ranks_agree(h, (n - 1) * h + other, (n - 1) * h * h + other * other, ranks));
    }
}

TEST_CASE("a following hash shows a difference in either argument") {
  for (const double earlier : {0.0, 1.0, 300.0, 65534.0})
    for (const double own : {1.0, 2.0, 65535.0}) {
      const double h = following_hash(earlier, own);
      CHECK(h >= 1);
      CHECK(h <= 65535);
      for (const double other : {3.0, 17.0, 257.0, 4369.0}) {
        CHECK(following_hash(earlier + other, own) != h);
        CHECK(following_hash(earlier, other == own ? 5.0 : other) != h);
      }
    }
  for (const double garbage : {std::nan(""), -1.0, 1e300})
    CHECK(following_hash(garbage, 7) == following_hash(0, 7));
}

TEST_CASE("the hash depends on what must agree, and on nothing else") {
  const double base = hash_after([](Problem&) {});
  CHECK(base >= 1);
  CHECK(base <= 65535);
  CHECK(base == hash_after([](Problem& p) { p.n = 0; }));
  CHECK(base == hash_after([](Problem& p) { p.s = 1; }));
  CHECK(base == hash_after([](Problem& p) { p.layout = SYNCNORM_CHANNELS_LAST; }));
  CHECK(base == hash_after([](Problem& p) { p.dtype = SYNCNORM_BFLOAT16; }));
  CHECK(base == hash_after([](Problem& p) { p.options.momentum = 0.5; }));
  CHECK(base != hash_after([](Problem& p) { p.c = 9; }));
  CHECK(base != hash_after([](Problem& p) { p.options.eps = 1e-3; }));
  CHECK(base != hash_after([](Problem& p) { p.options.eps_mode = SYNCNORM_EPS_MAX; }));
  CHECK(base != hash_after([](Problem& p) { p.options.weighting = SYNCNORM_WEIGHT_EQUAL; }));
  CHECK(base != hash_after([](Problem& p) { p.options.activation = SYNCNORM_RELU; }));
  CHECK(base != hash_after([](Problem& p) { p.options.centering = SYNCNORM_CENTER_ON; }));
  CHECK(base != hash_after([](Problem& p) { p.options.in_place = 1; }));
  CHECK(base != hash_after([](Problem& p) { p.options.tag = 1; }));
  CHECK(base != hash_after([](Problem& p) { p.options.tag = std::uint64_t{1} << 32; }));
  CHECK(base != call_hash(example(), Pass::kBackward));
}
