// What the tests of the C++ face share.
#pragma once

#include <cmath>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "doctest/doctest.h"
#include "syncnorm/syncnorm.hpp"

using syncnorm::Communicator;
using Values = std::vector<double>;

template <class Body>
void on_every_rank(std::vector<Communicator>& ranks, Body body) {
  std::vector<std::exception_ptr> thrown(ranks.size());
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    threads.emplace_back([&, r] {
      try {
        body(r, ranks[r]);
      } catch (...) {
        thrown[r] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& exception : thrown) {
    if (exception) std::rethrow_exception(exception);
  }
}

inline void check_close(const Values& got, const Values& expected, double tolerance = 6e-9) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK_MESSAGE(std::abs(got[i] - expected[i]) <= tolerance,
                  "value " << i << " is " << got[i] << ", expected " << expected[i]);
  }
}

// Two ranks with unequal shards; what they must get is known to eight digits.
struct Shard {
  Values x, dy;
  Values y = Values(x.size()), dx = Values(x.size()), saved{};
  Values dweight = Values(1), dbias = Values(1);
  Values running_mean = Values(1, 0.0), running_var = Values(1, 1.0);
  std::int64_t batches = 0;

  syncnorm::Shape shape() const {
    return x.size() == 4 ? syncnorm::Shape{2, 1, 2, SYNCNORM_FLOAT64}
                         : syncnorm::Shape{1, 1, 1, SYNCNORM_FLOAT64};
  }
  syncnorm::ForwardArgs forward() {
    saved.resize(syncnorm::query_sizes(shape(), {}).saved);
    syncnorm::ForwardArgs args;
    args.x = {x.data(), shape()};
    args.y = {y.data(), shape()};
    args.running_mean = running_mean.data();
    args.running_var = running_var.data();
    args.num_batches_tracked = &batches;
    args.saved = saved;
    return args;
  }
  syncnorm::BackwardArgs backward() {
    syncnorm::BackwardArgs args;
    args.x = {x.data(), shape()};
    args.dy = {dy.data(), shape()};
    args.saved = saved;
    args.dx = {dx.data(), shape()};
    args.dweight = dweight.data();
    args.dbias = dbias.data();
    return args;
  }
};

inline std::vector<Shard> make_shards() {
  return {Shard{{1, 3, 2, 6}, {1, -1, 2, .5}}, Shard{{9}, {-3}}};
}

inline void check_shards(const std::vector<Shard>& shards) {
  check_close(shards[0].y, {-1.09373684, -.41015132, -.75194408, .61522697});
  check_close(shards[1].y, {1.64060527});
  check_close(shards[0].dx, {-.13256389, -.49831446, .36814635, .49112712});
  check_close(shards[1].dx, {-.22839512});
  check_close(shards[0].dbias, {2.5});
  check_close(shards[1].dbias, {-3});
  check_close(shards[0].dweight, {-1.87986020});
  check_close(shards[1].dweight, {-4.92181580});
  for (const Shard& shard : shards) {
    check_close(shard.running_mean, {.42});
    check_close(shard.running_var, {1.97});
    CHECK(shard.batches == 1);
  }
}
