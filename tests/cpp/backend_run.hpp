// Runs a case of the backend contract through the phases and compares it with the reference.
#pragma once

#include <string>

#include "backend_contract.hpp"

namespace contract {

Device& device_under_test();

// Quick enough for tools that slow every access down.
inline const auto kSmall = doctest::test_suite("small");

inline void sum_wires(std::vector<Rank>& ranks, Buffer Rank::* from, Buffer Rank::* to) {
  std::vector<double> total = (ranks[0].*from).get();
  for (std::size_t r = 1; r < ranks.size(); ++r) {
    const std::vector<double> wire = (ranks[r].*from).get();
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += wire[i];
  }
  for (Rank& rank : ranks) (rank.*to).set(total);
}

// One phase of every rank, without the sum that follows.
inline void moments(const Case& k, std::vector<Rank>& ranks) {
  for (Rank& r : ranks)
    REQUIRE(syncnorm_moments(&r.shape, &k.options, &r.forward, r.wire.doubles(),
                             r.local_var.doubles(), &r.launch) == SYNCNORM_OK);
}

inline void center(const Case& k, std::vector<Rank>& ranks) {
  for (Rank& r : ranks)
    REQUIRE(syncnorm_center(&r.shape, &k.options, static_cast<std::int64_t>(ranks.size()),
                            r.wire.doubles(), r.total.doubles(), r.local_var.doubles(),
                            r.center_wire.doubles(), &r.launch) == SYNCNORM_OK);
}

inline void normalize(const Case& k, std::vector<Rank>& ranks) {
  for (Rank& r : ranks)
    REQUIRE(syncnorm_normalize(&r.shape, &k.options, &r.forward,
                               static_cast<std::int64_t>(ranks.size()), r.wire.doubles(),
                               r.total.doubles(), r.centered() ? r.center_total.doubles() : nullptr,
                               &r.launch) == SYNCNORM_OK);
}

inline void grad_moments(const Case& k, std::vector<Rank>& ranks) {
  for (Rank& r : ranks)
    REQUIRE(syncnorm_grad_moments(&r.shape, &k.options, &r.backward, r.grad_wire.doubles(),
                                  &r.launch) == SYNCNORM_OK);
}

inline void grad_input(const Case& k, std::vector<Rank>& ranks) {
  for (Rank& r : ranks)
    REQUIRE(syncnorm_grad_input(&r.shape, &k.options, &r.backward,
                                static_cast<std::int64_t>(ranks.size()), r.grad_wire.doubles(),
                                r.grad_total.doubles(), &r.launch) == SYNCNORM_OK);
}

inline void run_phases(const Case& k, std::vector<Rank>& ranks) {
  moments(k, ranks);
  sum_wires(ranks, &Rank::wire, &Rank::total);
  if (ranks[0].centered()) {
    center(k, ranks);
    sum_wires(ranks, &Rank::center_wire, &Rank::center_total);
  }
  normalize(k, ranks);
  grad_moments(k, ranks);
  sum_wires(ranks, &Rank::grad_wire, &Rank::grad_total);
  grad_input(k, ranks);
}

// A group of one.
inline void run_one_call(const Case& k, Rank& rank) {
  REQUIRE(syncnorm_forward(&rank.shape, &k.options, &rank.forward, nullptr, &rank.launch) ==
          SYNCNORM_OK);
  REQUIRE(syncnorm_backward(&rank.shape, &k.options, &rank.backward, nullptr, &rank.launch) ==
          SYNCNORM_OK);
}

// |got - expected| <= relative*|expected| + absolute, with NaN never within it. The absolute part
// is never below half the least float16, to which small values round.
inline void check_close(const std::string& what, const std::vector<double>& got,
                        const std::vector<double>& expected, double relative, double absolute) {
  CAPTURE(what);
  if (relative >= 0x1p-12) absolute = std::max(absolute, 0x1p-25);
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - expected[i]) <= relative * std::abs(expected[i]) + absolute)) {
      CAPTURE(i);
      CHECK(got[i] == expected[i]);
      return;
    }
}

inline double largest(const std::vector<double>& values) {
  double most = 0;
  for (const double v : values) most = std::max(most, std::abs(v));
  return most;
}

inline void compare(const Case& k, std::vector<Rank>& ranks, const reference::Result& expected,
                    syncnorm_dtype parameters) {
  const double arithmetic = k.dtype == SYNCNORM_FLOAT64 ? 0x1p-52 : 0x1p-23;
  const double stored = epsilon(k.dtype) / 2, kept = epsilon(parameters) / 2;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    Rank& rank = ranks[r];
    const reference::ShardResult& want = expected.shards[r];
    const auto n = rank.shape.n;
    const std::vector<double> saved = rank.saved.get();
    const std::vector<double> mean(saved.begin() + 2, saved.begin() + 2 + k.c);
    // Sums of `terms` values around the offset; a few roundings of values of the size of the
    // output.
    const double terms = static_cast<double>(std::max<std::int64_t>(1, n * k.s));
    const double scale = 1 + k.offset + largest(want.y) + largest(want.dx);
    check_close("mean", mean, expected.mean, 0, 8 * arithmetic * (1 + k.offset));
    check_close("y", in_layout(k, rank.output(k).get(), n, true), want.y, 2 * stored,
                32 * arithmetic * scale);
    // dx is what remains of larger terms where a channel varies little.
    const double terms_of_dx = largest(expected.scale) * largest(want.dresidual);
    check_close("dx", in_layout(k, rank.dx.get(), n, true), want.dx, 2 * stored,
                64 * arithmetic * std::max(scale, terms_of_dx));
    const bool curved = k.options.activation == SYNCNORM_ELU;
    if (k.options.in_place == 0)
      check_close("dresidual", in_layout(k, rank.dresidual.get(), n, true), want.dresidual,
                  2 * stored, curved ? 64 * arithmetic * scale : 0);
    check_close("dweight", rank.dweight.get(), want.dweight, kept,
                16 * arithmetic * scale * terms * expected.amplification);
    check_close("dbias", rank.dbias.get(), want.dbias, kept, 16 * arithmetic * scale * terms);
    check_close("running_mean", rank.running_mean.get(), expected.running_mean, 2 * kept,
                8 * arithmetic * scale);
    check_close("running_var", rank.running_var.get(), expected.running_var, 2 * kept,
                64 * arithmetic * scale);
    const std::vector<double> first = ranks[0].saved.get();
    CHECK(std::equal(saved.begin() + 2, saved.end(), first.begin() + 2));  // the same on every rank
  }
}

inline reference::Problem make_problem(const Case& k, syncnorm_dtype parameters) {
  reference::Problem problem{k.options, {}, {}, {}, {}, digits(k.dtype)};
  for (std::int64_t i = 0; i < k.c; ++i) {
    const double t = static_cast<double>(i % 7);
    problem.weight.push_back(rounded(parameters, 0.5 + 0.3 * t));
    problem.bias.push_back(rounded(parameters, 0.7 - 0.4 * t));
    problem.running_mean.push_back(rounded(parameters, 0.1 * t));
    problem.running_var.push_back(rounded(parameters, 1 + 0.2 * t));
  }
  return problem;
}

inline std::vector<Rank> make_ranks(const Case& k, const std::vector<reference::Shard>& shards,
                                    const reference::Problem& problem, syncnorm_dtype parameters) {
  std::vector<Rank> ranks;
  for (const reference::Shard& shard : shards)
    ranks.emplace_back(device_under_test(), k, shard, problem, parameters);
  return ranks;
}

// Where the backward pass starts from y, the reference does so too: from y as it was stored.
inline reference::Result expected_of(const Case& k, const std::vector<Rank>& ranks,
                                     const reference::Problem& problem,
                                     std::vector<reference::Shard> shards) {
  const bool from_output =
      k.options.in_place != 0 || (k.residual && k.options.activation == SYNCNORM_ELU);
  for (std::size_t r = 0; from_output && r < shards.size(); ++r)
    shards[r].output = in_layout(k, ranks[r].output(k).get(), shards[r].n, true);
  return reference::run(problem, shards);
}

// By the phases; a group of one also in one call.
inline void check_case(const Case& k, syncnorm_dtype parameters) {
  INFO("dtype ", k.dtype, " layout ", k.layout, " N ", k.samples[0], " C ", k.c, " S ", k.s,
       " masked ", k.masked, " residual ", k.residual, " activation ", k.options.activation,
       " weighting ", k.options.weighting, " eps_mode ", k.options.eps_mode, " in_place ",
       k.options.in_place, " overwrite ", k.overwrite);
  const std::vector<reference::Shard> shards = make_shards(k, 1);
  const reference::Problem problem = make_problem(k, parameters);
  std::vector<Rank> ranks = make_ranks(k, shards, problem, parameters);
  device_under_test().before_phases();
  run_phases(k, ranks);
  device_under_test().after_phases();
  compare(k, ranks, expected_of(k, ranks, problem, shards), parameters);
  if (ranks.size() > 1) return;
  std::vector<Rank> alone = make_ranks(k, shards, problem, parameters);
  run_one_call(k, alone[0]);
  INFO("in one call");
  compare(k, alone, expected_of(k, alone, problem, shards), parameters);
}

inline syncnorm_dtype parameters_of(syncnorm_dtype dtype) {
  return dtype == SYNCNORM_FLOAT64 ? SYNCNORM_FLOAT64 : SYNCNORM_FLOAT32;
}

}  // namespace contract
