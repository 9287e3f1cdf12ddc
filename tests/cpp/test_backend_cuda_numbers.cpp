// Numbers that are hard: far from zero, few of them, not finite.
#include "backend_run.hpp"
#include "cuda_device.hpp"

contract::Device& contract::device_under_test() { return cuda_device(); }

namespace contract {
namespace {

constexpr syncnorm_layout kBothLayouts[] = {SYNCNORM_CHANNELS_FIRST, SYNCNORM_CHANNELS_LAST};

struct Outcome {
  std::vector<double> y, dx, var;
};

Outcome outcome_of(const Case& k, const std::vector<reference::Shard>& shards, bool one_call) {
  const auto problem = make_problem(k, parameters_of(k.dtype));
  std::vector<Rank> ranks = make_ranks(k, shards, problem, parameters_of(k.dtype));
  if (one_call)
    run_one_call(k, ranks[0]);
  else
    run_phases(k, ranks);
  const auto n = shards[0].n;
  return {in_layout(k, ranks[0].y.get(), n, true), in_layout(k, ranks[0].dx.get(), n, true),
          ranks[0].running_var.get()};
}

TEST_CASE("a mean of ten thousand standard deviations") {
  for (const syncnorm_layout layout : kBothLayouts)
    for (const bool one_call : {false, true}) {
      INFO("layout ", layout, " one call ", one_call);
      Case k;
      k.layout = layout, k.c = 8, k.s = 1500, k.samples = {4}, k.offset = 2e4;
      const auto shards = make_shards(k, 1);
      const auto expected = reference::run(make_problem(k, SYNCNORM_FLOAT32), shards);
      const Outcome got = outcome_of(k, shards, one_call);
      // As exact as with a mean of zero, but for the variance: (mean/std)^2 * 2^-53 = 1e-8.
      const double rounding = 64 * 0x1p-23;
      check_close("y", got.y, expected.shards[0].y, rounding, rounding);
      check_close("dx", got.dx, expected.shards[0].dx, rounding, 4 * rounding);
      check_close("running_var", got.var, expected.running_var, rounding, 0);
    }
}

TEST_CASE("a mask that leaves few values, or one, or none") {
  for (const syncnorm_layout layout : kBothLayouts)
    for (const int counted : {0, 1, 2, 5}) {
      INFO("layout ", layout, " values that count ", counted);
      Case k;
      k.layout = layout, k.c = 6, k.s = 3000, k.samples = {3, 2}, k.masked = true;
      auto shards = make_shards(k, 1);
      for (reference::Shard& shard : shards)
        std::fill(shard.mask.begin(), shard.mask.end(), std::uint8_t{0});
      for (int i = 0; i < counted; ++i)
        shards[0].mask[static_cast<std::size_t>(8999 - 977 * i)] = 1;
      if (counted == 0)
        shards[1].mask.back() = 1, shards[1].mask[0] = 1;  // the other rank has some
      const auto problem = make_problem(k, SYNCNORM_FLOAT32);
      std::vector<Rank> ranks = make_ranks(k, shards, problem, SYNCNORM_FLOAT32);
      run_phases(k, ranks);
      compare(k, ranks, reference::run(problem, shards), SYNCNORM_FLOAT32);
    }
}

TEST_CASE("constant channels have a variance of zero and gradients that stay finite") {
  for (const syncnorm_layout layout : kBothLayouts)
    for (const double value : {0.0, 1.0, -123.456, 3e30}) {
      Case k;
      k.layout = layout, k.c = 4, k.s = 5000, k.samples = {2};
      auto shards = make_shards(k, 1);
      for (double& x : shards[0].x) x = rounded(SYNCNORM_FLOAT32, value);
      const auto problem = make_problem(k, SYNCNORM_FLOAT32);
      const Outcome got = outcome_of(k, shards, false);
      for (std::size_t i = 0; i < got.y.size(); ++i)
        if (got.y[i] != problem.bias[i / 5000 % 4]) {
          CHECK(got.y[i] == problem.bias[i / 5000 % 4]);
          break;
        }
      CHECK(std::all_of(got.dx.begin(), got.dx.end(), [](double v) { return std::isfinite(v); }));
    }
}

TEST_CASE("a NaN or an infinity anywhere reaches all of its channel and no other") {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const syncnorm_layout layout : kBothLayouts)
    for (const double bad : {std::nan(""), infinity, -infinity})
      for (const bool one_call : {false, true})
        for (const std::size_t at : {std::size_t{0}, std::size_t{2 * 2049 + 2048}}) {
          INFO("layout ", layout, " value ", bad, " at ", at, " one call ", one_call);
          Case k;
          k.layout = layout, k.c = 3, k.s = 2049, k.samples = {2};
          k.options.activation = SYNCNORM_RELU;
          auto shards = make_shards(k, 1);
          shards[0].x[at] = bad;
          const Outcome got = outcome_of(k, shards, one_call);
          bool in_its_channel_only = true;
          for (std::size_t i = 0; i < got.y.size(); ++i) {
            const bool finite = i / 2049 % 3 != at / 2049 % 3;
            in_its_channel_only &= std::isfinite(got.y[i]) == finite;
            in_its_channel_only &= std::isfinite(got.dx[i]) == finite;
          }
          CHECK(in_its_channel_only);
        }
}

}  // namespace
}  // namespace contract
