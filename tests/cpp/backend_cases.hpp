// The test cases of the backend contract. Included once by a test file that defines
// contract::device_under_test().
#pragma once

#include "backend_run.hpp"
#include "backend_wire_cases.hpp"

namespace contract {

inline constexpr syncnorm_dtype kAllDtypes[] = {SYNCNORM_FLOAT16, SYNCNORM_BFLOAT16,
                                                SYNCNORM_FLOAT32, SYNCNORM_FLOAT64};
inline constexpr syncnorm_layout kBothLayouts[] = {SYNCNORM_CHANNELS_FIRST, SYNCNORM_CHANNELS_LAST};

TEST_CASE("the phases over unequal ranks equal the reference") {
  // Sizes around vector widths, joined rows, chunk and task boundaries.
  const struct {
    std::int64_t c, s;
  } sizes[] = {{1, 1}, {1, 300}, {3, 49}, {7, 1}, {64, 16}, {65, 5}, {130, 3}, {2, 9001}, {300, 2}};
  for (const syncnorm_dtype dtype : kAllDtypes)
    for (const syncnorm_layout layout : kBothLayouts)
      for (const auto& size : sizes) {
        Case k;
        k.dtype = dtype, k.layout = layout, k.c = size.c, k.s = size.s;
        check_case(k, parameters_of(dtype));
      }
}

TEST_CASE("masks, residuals, activations and policies equal the reference" * kSmall) {
  int turn = 0;
  for (const syncnorm_dtype dtype : kAllDtypes)
    for (const syncnorm_layout layout : kBothLayouts)
      for (const bool masked : {false, true})
        for (const bool residual : {false, true})
          for (const auto act :
               {SYNCNORM_IDENTITY, SYNCNORM_RELU, SYNCNORM_LEAKY_RELU, SYNCNORM_ELU}) {
            Case k;
            k.dtype = dtype, k.layout = layout, k.c = 5, k.s = 37;
            k.masked = masked, k.residual = residual, k.options.activation = act;
            k.options.weighting = static_cast<syncnorm_weighting>(turn++ % 3);
            k.options.eps_mode = turn % 2 == 0 ? SYNCNORM_EPS_ADD : SYNCNORM_EPS_MAX;
            k.options.eps = turn % 4 == 1 ? 100.0 : 1e-5;  // with max: above and below the variance
            check_case(k, parameters_of(dtype));
          }
}

TEST_CASE("in place the gradients come from y" * kSmall) {
  int turn = 0;
  for (const syncnorm_dtype dtype : kAllDtypes)
    for (const syncnorm_layout layout : kBothLayouts)
      for (const bool overwrite : {false, true})
        for (const auto act : {SYNCNORM_IDENTITY, SYNCNORM_LEAKY_RELU, SYNCNORM_ELU}) {
          Case k;
          k.dtype = dtype, k.layout = layout, k.c = 7, k.s = 37, k.overwrite = overwrite;
          k.options.in_place = 1, k.options.activation = act;
          k.masked = turn % 2 == 1;
          k.options.weighting = static_cast<syncnorm_weighting>(turn++ % 3);
          check_case(k, parameters_of(dtype));
          k.samples = {3};
          check_case(k, parameters_of(dtype));
        }
}

TEST_CASE("in place a small weight is applied as the least one") {
  for (const double weight : {0.0, -0.0, 1e-30, -1e-5, 0x1p-12, -0x1p-12, 0x1p-11}) {
    Case k;
    k.options.in_place = 1, k.samples = {4}, k.overwrite = true;
    auto problem = make_problem(k, SYNCNORM_FLOAT32);
    problem.weight.assign(3, weight);
    const auto shards = make_shards(k, 5);
    std::vector<Rank> ranks = make_ranks(k, shards, problem, SYNCNORM_FLOAT32);
    run_phases(k, ranks);
    compare(k, ranks, expected_of(k, ranks, problem, shards), SYNCNORM_FLOAT32);
  }
}

TEST_CASE("ranks without values take part" * kSmall) {
  for (const syncnorm_dtype dtype : kAllDtypes)
    for (const syncnorm_layout layout : kBothLayouts) {
      Case k;
      k.dtype = dtype, k.layout = layout, k.samples = {0, 5, 0, 1};
      check_case(k, parameters_of(dtype));
    }
}

TEST_CASE("parameters of every supported dtype") {
  for (const syncnorm_dtype parameters : {SYNCNORM_FLOAT16, SYNCNORM_BFLOAT16, SYNCNORM_FLOAT32})
    for (const syncnorm_dtype dtype : {SYNCNORM_FLOAT16, SYNCNORM_BFLOAT16, SYNCNORM_FLOAT32}) {
      Case k;
      k.dtype = dtype;
      check_case(k, parameters);
    }
  Case k;
  k.dtype = SYNCNORM_FLOAT64;
  check_case(k, SYNCNORM_FLOAT32);
}

TEST_CASE("tensors without samples, channels or positions" * kSmall) {
  for (const syncnorm_layout layout : kBothLayouts)
    for (const std::int64_t n : {0, 2})
      for (const std::int64_t c : {0, 3})
        for (const std::int64_t s : {0, 1, 4}) {
          Case k;
          k.layout = layout, k.c = c, k.s = s, k.samples = {n};
          std::vector<Rank> ranks =
              make_ranks(k, make_shards(k, 1), make_problem(k, SYNCNORM_FLOAT32), SYNCNORM_FLOAT32);
          run_phases(k, ranks);
          Rank& rank = ranks[0];
          CHECK(syncnorm_forward(&rank.shape, &k.options, &rank.forward, nullptr, &rank.launch) ==
                SYNCNORM_OK);
          CHECK(syncnorm_backward(&rank.shape, &k.options, &rank.backward, nullptr, &rank.launch) ==
                SYNCNORM_OK);
          CHECK(syncnorm_infer(&rank.shape, &k.options, &rank.forward, &rank.launch) ==
                SYNCNORM_OK);
          CHECK(syncnorm_infer_backward(&rank.shape, &k.options, &rank.backward, &rank.launch) ==
                SYNCNORM_OK);
        }
}

TEST_CASE("a group without values leaves the running statistics alone") {
  Case k;
  k.samples = {0, 0};
  std::vector<Rank> ranks =
      make_ranks(k, make_shards(k, 1), make_problem(k, SYNCNORM_FLOAT32), SYNCNORM_FLOAT32);
  const std::vector<double> mean = ranks[0].running_mean.get(), var = ranks[0].running_var.get();
  run_phases(k, ranks);
  for (Rank& rank : ranks) {
    CHECK(rank.running_mean.get() == mean);
    CHECK(rank.running_var.get() == var);
    CHECK(rank.dweight.get() == std::vector<double>(3, 0.0));
  }
}

TEST_CASE("bits depend neither on the run nor on the number of threads") {
  for (const syncnorm_layout layout : kBothLayouts) {
    Case k;
    k.layout = layout, k.c = 9, k.s = 5000, k.samples = {6};
    std::vector<std::vector<unsigned char>> first;
    for (const int threads : {1, 1, 2, 3, 8}) {
      k.threads = threads;
      std::vector<Rank> ranks =
          make_ranks(k, make_shards(k, 1), make_problem(k, SYNCNORM_FLOAT32), SYNCNORM_FLOAT32);
      run_phases(k, ranks);
      const Rank& rank = ranks[0];
      const std::vector<std::vector<unsigned char>> now = {rank.y.raw(), rank.dx.raw(),
                                                           rank.dweight.raw(), rank.saved.raw(),
                                                           rank.running_var.raw()};
      if (first.empty()) first = now;
      CHECK(now == first);
    }
  }
}

TEST_CASE("a group of one in one call computes what the phases compute") {
  for (const syncnorm_dtype dtype : kAllDtypes)
    for (const syncnorm_layout layout : kBothLayouts)
      for (const std::int64_t s : {1, 49, 9000}) {
        INFO("dtype ", dtype, " layout ", layout, " S ", s);
        Case k;
        k.dtype = dtype, k.layout = layout, k.c = 20, k.s = s, k.samples = {3};
        k.residual = true, k.masked = true, k.options.activation = SYNCNORM_RELU;
        const auto shards = make_shards(k, 2);
        const auto problem = make_problem(k, parameters_of(dtype));
        std::vector<Rank> joined = make_ranks(k, shards, problem, parameters_of(dtype));
        Rank& one = joined[0];
        run_one_call(k, one);
        std::vector<Rank> phases = make_ranks(k, shards, problem, parameters_of(dtype));
        run_phases(k, phases);
        CHECK(one.y.raw() == phases[0].y.raw());
        CHECK(one.dx.raw() == phases[0].dx.raw());
        CHECK(one.saved.raw() == phases[0].saved.raw());
        CHECK(one.dweight.raw() == phases[0].dweight.raw());
        CHECK(one.running_var.raw() == phases[0].running_var.raw());
      }
}

TEST_CASE("inference and frozen training use the running statistics") {
  for (const syncnorm_dtype dtype : kAllDtypes)
    for (const syncnorm_layout layout : kBothLayouts) {
      Case k;
      k.dtype = dtype, k.layout = layout, k.samples = {3}, k.options.activation = SYNCNORM_RELU;
      const auto shards = make_shards(k, 3);
      const auto problem = make_problem(k, parameters_of(dtype));
      std::vector<Rank> ranks = make_ranks(k, shards, problem, parameters_of(dtype));
      Rank& rank = ranks[0];
      REQUIRE(syncnorm_infer(&rank.shape, &k.options, &rank.forward, &rank.launch) == SYNCNORM_OK);
      REQUIRE(syncnorm_infer_backward(&rank.shape, &k.options, &rank.backward, &rank.launch) ==
              SYNCNORM_OK);
      std::vector<double> y, dx, dbias(3), dweight(3);
      for (std::size_t i = 0; i < shards[0].x.size(); ++i) {
        const std::size_t c = i / 7 % 3;
        const double invstd = 1 / std::sqrt(problem.running_var[c] + k.options.eps);
        const double xhat = (shards[0].x[i] - problem.running_mean[c]) * invstd;
        const double z = xhat * problem.weight[c] + problem.bias[c];
        const double g = z > 0 ? shards[0].dy[i] : 0.0;
        y.push_back(z > 0 ? z : 0.0);
        dx.push_back(g * problem.weight[c] * invstd);
        dbias[c] += g;
        dweight[c] += g * xhat;
      }
      const double arithmetic = dtype == SYNCNORM_FLOAT64 ? 0x1p-52 : 0x1p-23;
      check_close("y", in_layout(k, rank.y.get(), 3, true), y, epsilon(dtype), 64 * arithmetic);
      check_close("dx", in_layout(k, rank.dx.get(), 3, true), dx, epsilon(dtype), 64 * arithmetic);
      check_close("dbias", rank.dbias.get(), dbias, 0, 1e3 * arithmetic);
      check_close("dweight", rank.dweight.get(), dweight, 0, 1e4 * arithmetic);
      check_close("running_mean", rank.running_mean.get(), problem.running_mean, 0, 0);
    }
}

TEST_CASE("in place inference and frozen training use the running statistics") {
  for (const syncnorm_dtype dtype : kAllDtypes)
    for (const auto act : {SYNCNORM_IDENTITY, SYNCNORM_LEAKY_RELU, SYNCNORM_ELU}) {
      INFO("dtype ", dtype, " activation ", act);
      Case k;
      k.dtype = dtype, k.samples = {3}, k.overwrite = true;
      k.options.in_place = 1, k.options.activation = act;
      const auto shards = make_shards(k, 3);
      const auto problem = make_problem(k, parameters_of(dtype));
      std::vector<Rank> ranks = make_ranks(k, shards, problem, parameters_of(dtype));
      Rank& rank = ranks[0];
      REQUIRE(syncnorm_infer(&rank.shape, &k.options, &rank.forward, &rank.launch) == SYNCNORM_OK);
      const std::vector<double> y = rank.output(k).get();
      REQUIRE(syncnorm_infer_backward(&rank.shape, &k.options, &rank.backward, &rank.launch) ==
              SYNCNORM_OK);
      std::vector<double> dx, dweight(3);
      for (std::size_t i = 0; i < y.size(); ++i) {
        const std::size_t c = i / 7 % 3;
        const double slope = act == SYNCNORM_IDENTITY || y[i] > 0 ? 1
                             : act == SYNCNORM_ELU                ? y[i] + 1
                                                                  : k.options.negative_slope;
        const double g = shards[0].dy[i] * slope;
        dx.push_back(g * problem.weight[c] / std::sqrt(problem.running_var[c] + k.options.eps));
        dweight[c] += g * (reference::inverse(problem, y[i]) - problem.bias[c]) / problem.weight[c];
      }
      const double arithmetic = dtype == SYNCNORM_FLOAT64 ? 0x1p-52 : 0x1p-23;
      check_close("dx", rank.dx.get(), dx, epsilon(dtype), 64 * arithmetic);
      check_close("dweight", rank.dweight.get(), dweight, 0, 1e4 * arithmetic);
    }
}

TEST_CASE("NaN and infinity stay in the output of their channel") {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {std::nan(""), infinity, -infinity})
    for (const syncnorm_dtype dtype : kAllDtypes)
      for (const syncnorm_layout layout : kBothLayouts)
        for (const auto act : {SYNCNORM_RELU, SYNCNORM_ELU}) {
          Case k;
          k.dtype = dtype, k.layout = layout, k.options.activation = act;
          auto shards = make_shards(k, 4);
          shards[1].x[8] = bad;  // channel 1
          std::vector<Rank> ranks =
              make_ranks(k, shards, make_problem(k, parameters_of(dtype)), parameters_of(dtype));
          run_phases(k, ranks);
          const std::vector<double> y = in_layout(k, ranks[0].y.get(), 4, true);
          bool in_its_channel_only = true;
          for (std::size_t i = 0; i < y.size(); ++i)
            in_its_channel_only &= std::isfinite(y[i]) == (i / 7 % 3 != 1);
          CHECK(in_its_channel_only);
        }
}

}  // namespace contract
