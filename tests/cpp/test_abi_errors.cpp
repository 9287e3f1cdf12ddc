// What the C interface refuses, and that it writes nothing then.
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "syncnorm/syncnorm.h"

namespace {

// A valid call on a small tensor; each test spoils one thing.
struct Call {
  syncnorm_shape shape = SYNCNORM_SHAPE_INIT;
  syncnorm_options options = SYNCNORM_OPTIONS_INIT;
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  syncnorm_forward_args forward = SYNCNORM_FORWARD_ARGS_INIT;
  syncnorm_backward_args backward = SYNCNORM_BACKWARD_ARGS_INIT;
  std::vector<float> x = std::vector<float>(24, 1.5f), y = std::vector<float>(24, -7.0f);
  std::vector<float> dy = std::vector<float>(24, 0.5f), dx = std::vector<float>(24, -7.0f);
  std::vector<float> mean = std::vector<float>(3, 0.25f), var = std::vector<float>(3, 2.0f);
  std::vector<double> saved = std::vector<double>(11, 1.0), wire = std::vector<double>(10, -7.0);
  static constexpr std::size_t kSpare = 4096;
  std::vector<unsigned char> memory;
  std::size_t needed = 0;

  Call() {
    shape.n = 2, shape.c = 3, shape.s = 4;
    syncnorm_sizes sizes = SYNCNORM_SIZES_INIT;
    REQUIRE(syncnorm_query_sizes(&shape, &options, SYNCNORM_CPU, &sizes) == SYNCNORM_OK);
    needed = sizes.workspace_size;
    memory.resize(needed + kSpare + 64);
    const auto misaligned = reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
    launch.workspace = memory.data() + (64 - misaligned) % 64;
    launch.workspace_size = needed + kSpare;
    forward.x = x.data(), forward.y = y.data();
    forward.running_mean = {mean.data(), SYNCNORM_FLOAT32};
    forward.running_var = {var.data(), SYNCNORM_FLOAT32};
    forward.saved = nullptr;
    backward.x = x.data(), backward.dy = dy.data(), backward.dx = dx.data();
    backward.saved = saved.data();
  }
  syncnorm_status run_forward() {
    return syncnorm_forward(&shape, &options, &forward, nullptr, &launch);
  }
  syncnorm_status run_backward() {
    return syncnorm_backward(&shape, &options, &backward, nullptr, &launch);
  }
  bool untouched() const {
    return y == std::vector<float>(24, -7.0f) && dx == std::vector<float>(24, -7.0f) &&
           mean == std::vector<float>(3, 0.25f) && var == std::vector<float>(3, 2.0f) &&
           wire == std::vector<double>(10, -7.0);
  }
};

template <class Spoil>
void refused(const char* says, Spoil&& spoil,
             syncnorm_status expected = SYNCNORM_INVALID_ARGUMENT) {
  CAPTURE(says);
  Call call;
  spoil(call);
  CHECK(call.run_forward() == expected);
  CHECK(std::string(syncnorm_last_error()).find(says) != std::string::npos);
  CHECK(call.untouched());
}

template <class Spoil>
void backward_refused(const char* says, Spoil&& spoil) {
  CAPTURE(says);
  Call call;
  spoil(call);
  CHECK(call.run_backward() == SYNCNORM_INVALID_ARGUMENT);
  CHECK(std::string(syncnorm_last_error()).find(says) != std::string::npos);
  CHECK(call.untouched());
}

}  // namespace

TEST_CASE("the unspoiled call is accepted") {
  Call call;
  CHECK(call.run_forward() == SYNCNORM_OK);
  CHECK(call.run_backward() == SYNCNORM_OK);
  CHECK_FALSE(call.untouched());
}

TEST_CASE("wrong options and shapes are refused before anything is written") {
  refused("shape.n is -1", [](Call& c) { c.shape.n = -1; });
  refused("is too large", [](Call& c) { c.shape.s = INT64_MAX / 4; });
  refused("shape.dtype is 9", [](Call& c) { c.shape.dtype = static_cast<syncnorm_dtype>(9); });
  refused("shape.layout", [](Call& c) { c.shape.layout = static_cast<syncnorm_layout>(2); });
  refused("options.eps is -1", [](Call& c) { c.options.eps = -1; });
  refused("options.eps is nan", [](Call& c) { c.options.eps = std::nan(""); });
  refused("options.momentum is 1.5", [](Call& c) { c.options.momentum = 1.5; });
  refused("options.weighting",
          [](Call& c) { c.options.weighting = static_cast<syncnorm_weighting>(-3); });
  refused("negative_slope is -0.5", [](Call& c) {
    c.options.activation = SYNCNORM_LEAKY_RELU;
    c.options.negative_slope = -0.5;
  });
  refused("options.activation",
          [](Call& c) { c.options.activation = static_cast<syncnorm_activation>(4); });
  refused("shape->struct_size is 0", [](Call& c) { c.shape.struct_size = 0; });
  refused("args->struct_size", [](Call& c) { c.forward.struct_size -= 8; });
}

TEST_CASE("what cannot be done in place is refused before anything is written") {
  refused("options.in_place is 2", [](Call& c) { c.options.in_place = 2; });
  refused("relu, which cannot be inverted", [](Call& c) {
    c.options.in_place = 1;
    c.options.activation = SYNCNORM_RELU;
  });
  for (const double slope : {0.0, 1e-50, 1e50})
    refused("expected a slope that can be divided by", [=](Call& c) {
      c.options.in_place = 1;
      c.options.activation = SYNCNORM_LEAKY_RELU;
      c.options.negative_slope = slope;
    });
  refused("residual is given and options.in_place is 1", [](Call& c) {
    c.options.in_place = 1;
    c.forward.residual = c.x.data();
  });
  backward_refused("y is given and options.in_place is 1", [](Call& c) {
    c.options.in_place = 1;
    c.options.activation = SYNCNORM_ELU;
    c.backward.y = c.y.data();
  });
  backward_refused("dresidual is given and options.in_place is 1", [](Call& c) {
    c.options.in_place = 1;
    c.backward.dresidual = c.y.data();
  });
}

TEST_CASE("gathered wires that cannot be added are refused") {
  const syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  std::vector<double> wires(6, 1.0), total(3, -7.0);
  const auto says = [&](const char* text, const double* from, std::int64_t ranks, std::int64_t n,
                        double* to) {
    CHECK(syncnorm_add_wires(from, ranks, n, to, &launch) == SYNCNORM_INVALID_ARGUMENT);
    CHECK(std::string(syncnorm_last_error()).find(text) != std::string::npos);
  };
  says("ranks is -1", wires.data(), -1, 3, total.data());
  says("length is -3", wires.data(), 2, -3, total.data());
  says("gathered is NULL; expected 2 wires of 3", nullptr, 2, 3, total.data());
  says("total is NULL; expected room for 3", wires.data(), 2, 3, nullptr);
  says("total is gathered", wires.data(), 2, 3, wires.data());
  CHECK(total == std::vector<double>(3, -7.0));
  CHECK(wires == std::vector<double>(6, 1.0));
  CHECK(syncnorm_add_wires(nullptr, 0, 3, total.data(), &launch) == SYNCNORM_OK);
  CHECK(total == std::vector<double>(3, 0.0));
}

TEST_CASE("wrong buffers are refused before anything is written") {
  refused("x is NULL", [](Call& c) { c.forward.x = nullptr; });
  refused("y is NULL", [](Call& c) { c.forward.y = nullptr; });
  refused("only one of running_mean and running_var",
          [](Call& c) { c.forward.running_var.data = nullptr; });
  refused("running_var is float64; with float32 input it must be",
          [](Call& c) { c.forward.running_var.dtype = SYNCNORM_FLOAT64; });
  refused("weight is float16; with float64 input", [](Call& c) {
    c.shape.dtype = SYNCNORM_FLOAT64;
    c.forward.weight = {c.mean.data(), SYNCNORM_FLOAT16};
    c.shape.n = 0;
  });
  refused("num_batches_tracked is NULL",
          [](Call& c) { c.options.momentum = SYNCNORM_MOMENTUM_CUMULATIVE; });
  refused("launch.workspace_size is", [](Call& c) { c.launch.workspace_size = c.needed - 1; });
  refused("not aligned", [](Call& c) {
    c.launch.workspace = static_cast<unsigned char*>(c.launch.workspace) + 8;
  });
  refused("launch.num_threads is 0", [](Call& c) { c.launch.num_threads = 0; });
  refused("launch.stream is set", [](Call& c) { c.launch.stream = &c; });
}

TEST_CASE("wrong backward arguments are refused before anything is written") {
  backward_refused("dy is NULL", [](Call& c) { c.backward.dy = nullptr; });
  backward_refused("saved is NULL", [](Call& c) { c.backward.saved = nullptr; });
  backward_refused("y is given but there is no activation",
                   [](Call& c) { c.backward.y = c.y.data(); });
  backward_refused("dx and dresidual are the same buffer",
                   [](Call& c) { c.backward.dresidual = c.backward.dx; });
}

TEST_CASE("a device that was not built is refused") {
  syncnorm_capabilities capabilities = SYNCNORM_CAPABILITIES_INIT;
  REQUIRE(syncnorm_query_capabilities(&capabilities) == SYNCNORM_OK);
  if (capabilities.cuda_built) return;
  refused(
      "no CUDA backend", [](Call& c) { c.launch.device = SYNCNORM_CUDA; }, SYNCNORM_UNSUPPORTED);
}

TEST_CASE("the options of an older caller end before in_place, and ask for what they asked then") {
  Call call;
  call.options.struct_size = offsetof(syncnorm_options, in_place);
  call.options.in_place = 77;  // not of the struct that the caller knows
  CHECK(call.run_forward() == SYNCNORM_OK);
  call.options.struct_size -= 1;
  CHECK(call.run_forward() == SYNCNORM_INVALID_ARGUMENT);
}

TEST_CASE("structs of a newer caller are taken while what they add is not used") {
  struct Newer {
    syncnorm_options known = SYNCNORM_OPTIONS_INIT;
    double added = 0;
  } newer;
  newer.known.struct_size = sizeof(newer);
  Call call;
  CHECK(syncnorm_forward(&call.shape, &newer.known, &call.forward, nullptr, &call.launch) ==
        SYNCNORM_OK);
  newer.added = 1;
  CHECK(syncnorm_forward(&call.shape, &newer.known, &call.forward, nullptr, &call.launch) ==
        SYNCNORM_UNSUPPORTED);
}

TEST_CASE("phases refuse missing or shared wires") {
  Call call;
  CHECK(syncnorm_moments(&call.shape, &call.options, &call.forward, nullptr, nullptr,
                         &call.launch) == SYNCNORM_INVALID_ARGUMENT);
  const auto normalize = [&](std::int64_t group_size, const double* wire, const double* total,
                             const double* center) {
    return syncnorm_normalize(&call.shape, &call.options, &call.forward, group_size, wire, total,
                              center, &call.launch);
  };
  const double* wire = call.wire.data();
  CHECK(normalize(2, wire, wire, nullptr) == SYNCNORM_INVALID_ARGUMENT);
  CHECK(normalize(0, wire, call.saved.data(), nullptr) == SYNCNORM_INVALID_ARGUMENT);
  CHECK(normalize(1, wire, nullptr, nullptr) == SYNCNORM_INVALID_ARGUMENT);
  CHECK(normalize(1, wire, wire, wire) == SYNCNORM_INVALID_ARGUMENT);
  CHECK(syncnorm_center(&call.shape, &call.options, 1, wire, wire, wire, call.saved.data(),
                        &call.launch) == SYNCNORM_INVALID_ARGUMENT);
  CHECK(call.untouched());
}

TEST_CASE("names of statuses") {
  CHECK(std::string(syncnorm_status_name(SYNCNORM_DESYNC)) == "desync");
  CHECK(std::string(syncnorm_status_name(SYNCNORM_RANK_LOST)) == "rank lost");
  CHECK(std::string(syncnorm_status_name(static_cast<syncnorm_status>(99))) == "unknown status");
}
