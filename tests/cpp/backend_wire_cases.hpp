// The part of backend_cases.hpp that is about wires.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "backend_run.hpp"

namespace contract {

TEST_CASE("gathered wires are added in the order of the ranks" * kSmall) {
  Device& device = device_under_test();
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  launch.device = device.kind(), launch.stream = device.stream();
  for (const std::size_t ranks : {0U, 1U, 3U, 8U})
    for (const std::size_t length : {0U, 1U, 134U, 20000U}) {
      CAPTURE(ranks);
      CAPTURE(length);
      std::mt19937_64 random(ranks + length);
      std::vector<double> values(ranks * length), expected(length, ranks == 0 ? 0.0 : -0.0);
      for (double& value : values) value = std::ldexp(1.0, static_cast<int>(random() % 120));
      if (ranks * length > 0) values[0] = -0.0;  // of one rank it stays that
      for (std::size_t i = 0; i < values.size(); ++i) expected[i % length] += values[i];
      Buffer gathered(device, SYNCNORM_FLOAT64, values.size()),
          total(device, SYNCNORM_FLOAT64, length);
      gathered.set(values);
      REQUIRE(syncnorm_add_wires(gathered.doubles(), static_cast<std::int64_t>(ranks),
                                 static_cast<std::int64_t>(length), total.doubles(),
                                 &launch) == SYNCNORM_OK);
      const std::vector<double> sums = total.get();
      CHECK(std::equal(sums.begin(), sums.end(), expected.begin(), expected.end(),
                       [](double a, double b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }));
    }
}

TEST_CASE("ranks in different calls are told, and their buffers left alone") {
  Case k;
  std::vector<Rank> ranks =
      make_ranks(k, make_shards(k, 1), make_problem(k, SYNCNORM_FLOAT32), SYNCNORM_FLOAT32);
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    syncnorm_options options = k.options;
    options.tag = r == 2 ? 5 : 4;
    REQUIRE(syncnorm_moments(&ranks[r].shape, &options, &ranks[r].forward, ranks[r].wire.doubles(),
                             nullptr, &ranks[r].launch) == SYNCNORM_OK);
  }
  sum_wires(ranks, &Rank::wire, &Rank::total);
  Rank& rank = ranks[0];
  const std::vector<double> mean = rank.running_mean.get();
  const std::shared_ptr<void> status = device_under_test().allocate(sizeof(std::int32_t));
  std::int32_t word = 0;
  device_under_test().upload(status.get(), &word, sizeof(word));
  rank.launch.status = static_cast<std::int32_t*>(status.get());
  const syncnorm_status returned =
      syncnorm_normalize(&rank.shape, &k.options, &rank.forward, 3, rank.wire.doubles(),
                         rank.total.doubles(), nullptr, &rank.launch);
  CHECK(returned == (device_under_test().kind() == SYNCNORM_CPU ? SYNCNORM_DESYNC : SYNCNORM_OK));
  device_under_test().download(&word, status.get(), sizeof(word));
  CHECK(word == SYNCNORM_DESYNC);
  CHECK(rank.running_mean.get() == mean);
  const std::vector<double> y = rank.y.get();
  CHECK(std::all_of(y.begin(), y.end(), [](double v) { return std::isnan(v); }));
}

}  // namespace contract
