// Sizes, counts and struct sizes beyond the limits, and buffers that overlap: refused at once,
// before anything is read or written.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "syncnorm/syncnorm.h"

namespace {

constexpr std::int64_t kMaxValues = std::int64_t{1} << 48;  // as syncnorm.h says
constexpr std::int64_t kMaxThreads = 4096;
constexpr std::int64_t kMaxGroup = std::int64_t{1} << 21;
constexpr std::size_t kMaxStructSize = 4096;

bool says(const char* text) {
  return std::string(syncnorm_last_error()).find(text) != std::string::npos;
}

syncnorm_shape shape_of(std::int64_t n, std::int64_t c, std::int64_t s,
                        syncnorm_layout layout = SYNCNORM_CHANNELS_FIRST,
                        syncnorm_dtype dtype = SYNCNORM_FLOAT32) {
  syncnorm_shape shape = SYNCNORM_SHAPE_INIT;
  shape.n = n, shape.c = c, shape.s = s, shape.layout = layout, shape.dtype = dtype;
  return shape;
}

// One block of host memory for each buffer of a call, as a multiple of 64 bytes.
class Workspace {
 public:
  explicit Workspace(std::size_t size) : bytes_(size + 64) {
    const auto misaligned = reinterpret_cast<std::uintptr_t>(bytes_.data()) % 64;
    data_ = bytes_.data() + (64 - misaligned) % 64;
  }
  void* data() { return data_; }

 private:
  std::vector<unsigned char> bytes_;
  unsigned char* data_;
};

// All forward and backward functions on a shape of N*C*S = 0.
void run_empty(const syncnorm_shape& shape, bool masked) {
  CAPTURE(shape.n);
  CAPTURE(shape.c);
  CAPTURE(shape.s);
  syncnorm_options options = SYNCNORM_OPTIONS_INIT;
  options.centering = SYNCNORM_CENTER_ON;
  syncnorm_sizes sizes = SYNCNORM_SIZES_INIT;
  REQUIRE(syncnorm_query_sizes(&shape, &options, SYNCNORM_CPU, &sizes) == SYNCNORM_OK);
  const auto length = [](std::int64_t values) { return static_cast<std::size_t>(values); };
  const std::size_t c = length(shape.c);
  std::vector<double> wire(length(sizes.wire_length)), total(wire), center(wire), grad(wire);
  std::vector<double> saved(length(sizes.saved_length)), local_var(c + 1);
  std::vector<float> mean(c, 0.5f), var(c, 2.0f), dweight(c, 7.0f), dbias(c, 7.0f);
  const std::vector<std::uint8_t> mask(masked ? length(shape.n * shape.s) : 0, 1);
  Workspace workspace(sizes.workspace_size);
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  launch.workspace = workspace.data(), launch.workspace_size = sizes.workspace_size;
  launch.num_threads = 2;
  syncnorm_forward_args forward = SYNCNORM_FORWARD_ARGS_INIT;
  forward.running_mean = {mean.data(), SYNCNORM_FLOAT32};
  forward.running_var = {var.data(), SYNCNORM_FLOAT32};
  forward.mask = mask.empty() ? nullptr : mask.data();
  forward.saved = saved.data();
  syncnorm_backward_args backward = SYNCNORM_BACKWARD_ARGS_INIT;
  backward.saved = saved.data(), backward.mask = forward.mask;
  backward.dweight = {dweight.data(), SYNCNORM_FLOAT32};
  backward.dbias = {dbias.data(), SYNCNORM_FLOAT32};

  REQUIRE(syncnorm_moments(&shape, &options, &forward, wire.data(), local_var.data(), &launch) ==
          SYNCNORM_OK);
  for (std::size_t i = 4; i < wire.size(); ++i) REQUIRE(wire[i] == 0.0);
  REQUIRE(syncnorm_center(&shape, &options, 1, wire.data(), wire.data(), local_var.data(),
                          center.data(), &launch) == SYNCNORM_OK);
  REQUIRE(syncnorm_normalize(&shape, &options, &forward, 1, wire.data(), wire.data(), center.data(),
                             &launch) == SYNCNORM_OK);
  REQUIRE(syncnorm_grad_moments(&shape, &options, &backward, grad.data(), &launch) == SYNCNORM_OK);
  REQUIRE(syncnorm_grad_input(&shape, &options, &backward, 1, grad.data(), grad.data(), &launch) ==
          SYNCNORM_OK);
  REQUIRE(syncnorm_forward(&shape, &options, &forward, nullptr, &launch) == SYNCNORM_OK);
  REQUIRE(syncnorm_backward(&shape, &options, &backward, nullptr, &launch) == SYNCNORM_OK);
  CHECK(dweight == std::vector<float>(c, 0.0f));
  CHECK(dbias == std::vector<float>(c, 0.0f));
  if (shape.n == 0 || shape.s == 0) CHECK(var == std::vector<float>(c, 2.0f));
  REQUIRE(syncnorm_infer(&shape, &options, &forward, &launch) == SYNCNORM_OK);
  REQUIRE(syncnorm_infer_backward(&shape, &options, &backward, &launch) == SYNCNORM_OK);
}

}  // namespace

TEST_CASE("sizes whose products wrap are refused, of empty tensors too") {
  const std::int64_t huge = std::int64_t{1} << 62;
  const std::int64_t sizes[] = {0, 1, 3, 1 << 20, kMaxValues, kMaxValues + 1, huge, INT64_MAX};
  const auto within = [](std::int64_t n, std::int64_t c, std::int64_t s) {
    long double product = 1;
    for (const std::int64_t size : {n, c, s})
      product *= static_cast<long double>(size > 1 ? size : 1);
    return product <= static_cast<long double>(kMaxValues);
  };
  const syncnorm_layout layouts[] = {SYNCNORM_CHANNELS_FIRST, SYNCNORM_CHANNELS_LAST};
  syncnorm_options options = SYNCNORM_OPTIONS_INIT;
  for (const std::int64_t n : sizes)
    for (const std::int64_t c : sizes)
      for (const std::int64_t s : sizes)
        for (const syncnorm_layout layout : layouts)
          for (const syncnorm_dtype dtype : {SYNCNORM_FLOAT16, SYNCNORM_FLOAT64}) {
            CAPTURE(n);
            CAPTURE(c);
            CAPTURE(s);
            const syncnorm_shape shape = shape_of(n, c, s, layout, dtype);
            syncnorm_sizes lengths = SYNCNORM_SIZES_INIT;
            const bool accepted =
                syncnorm_query_sizes(&shape, &options, SYNCNORM_CPU, &lengths) == SYNCNORM_OK;
            REQUIRE(accepted == within(n, c, s));
            if (!accepted) {
              REQUIRE(says("is too large"));
              REQUIRE(lengths.workspace_size == 0);
              continue;
            }
            REQUIRE(lengths.wire_length == 2 * c + 4);
            REQUIRE(lengths.saved_length == 3 * c + 2);
            const auto channels = static_cast<std::size_t>(c);
            REQUIRE(lengths.workspace_size / sizeof(double) >= 4 * channels);
            REQUIRE(lengths.workspace_size < std::size_t{1} << 62);
          }
}

TEST_CASE("huge tensors without values take no time") {
  for (const syncnorm_layout layout : {SYNCNORM_CHANNELS_FIRST, SYNCNORM_CHANNELS_LAST}) {
    run_empty(shape_of(std::int64_t{1} << 44, 8, 0, layout), false);
    run_empty(shape_of(std::int64_t{1} << 44, 1, 0, layout), false);
    run_empty(shape_of(0, 8, std::int64_t{1} << 44, layout), false);
    run_empty(shape_of(0, 1, std::int64_t{1} << 44, layout), false);
    run_empty(shape_of(std::int64_t{1} << 24, 0, std::int64_t{1} << 24, layout), false);
    run_empty(shape_of(kMaxValues, 0, 1, layout), false);
    run_empty(shape_of(0, 1 << 16, 0, layout), false);
    run_empty(shape_of(3, 0, 5, layout), true);
    run_empty(shape_of(1 << 10, 0, 1 << 10, layout), true);
  }
}

TEST_CASE("struct sizes beyond those of any version are refused before the memory is read") {
  syncnorm_options options = SYNCNORM_OPTIONS_INIT;
  syncnorm_sizes sizes = SYNCNORM_SIZES_INIT;
  for (const std::size_t size : {kMaxStructSize + 1, std::size_t{1} << 40, SIZE_MAX}) {
    syncnorm_shape shape = shape_of(2, 3, 4);
    shape.struct_size = size;
    CHECK(syncnorm_query_sizes(&shape, &options, SYNCNORM_CPU, &sizes) ==
          SYNCNORM_INVALID_ARGUMENT);
    CHECK(says("shape->struct_size is"));
    shape.struct_size = sizeof(shape);
    sizes.struct_size = size;
    CHECK(syncnorm_query_sizes(&shape, &options, SYNCNORM_CPU, &sizes) ==
          SYNCNORM_INVALID_ARGUMENT);
    CHECK(says("sizes->struct_size is"));
    sizes.struct_size = sizeof(sizes);
  }
  union {
    syncnorm_shape shape;
    unsigned char bytes[kMaxStructSize];
  } longest{};
  longest.shape = shape_of(2, 3, 4);
  longest.shape.struct_size = kMaxStructSize;
  CHECK(syncnorm_query_sizes(&longest.shape, &options, SYNCNORM_CPU, &sizes) == SYNCNORM_OK);
}

namespace {

// A valid call on a tensor of (2, 3, 4); each test spoils one thing. Buffers are in one block of
// memory, so that they can overlap by any distance.
struct Call {
  syncnorm_shape shape = shape_of(2, 3, 4);
  syncnorm_options options = SYNCNORM_OPTIONS_INIT;
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  syncnorm_forward_args forward = SYNCNORM_FORWARD_ARGS_INIT;
  syncnorm_backward_args backward = SYNCNORM_BACKWARD_ARGS_INIT;
  std::vector<double> memory = std::vector<double>(400, 0.5);
  std::vector<double> before;
  Workspace workspace{1 << 20};
  double wire[10] = {};

  double* at(std::size_t place) { return memory.data() + 20 * place; }
  void set_counter(std::int64_t value) { std::memcpy(at(9), &value, sizeof(value)); }

  Call() {
    launch.workspace = workspace.data(), launch.workspace_size = 1 << 20;
    forward.x = at(0), forward.residual = at(1), forward.y = at(2);
    forward.saved = at(3);
    forward.weight = {at(4), SYNCNORM_FLOAT32}, forward.bias = {at(5), SYNCNORM_FLOAT32};
    forward.running_mean = {at(6), SYNCNORM_FLOAT32};
    forward.running_var = {at(7), SYNCNORM_FLOAT32};
    forward.mask = reinterpret_cast<std::uint8_t*>(at(8));
    forward.num_batches_tracked = reinterpret_cast<std::int64_t*>(at(9));
    set_counter(3);
    options.activation = SYNCNORM_RELU;
    backward.x = forward.x, backward.dy = at(10), backward.y = forward.y;
    backward.mask = forward.mask, backward.saved = forward.saved;
    backward.weight = forward.weight, backward.bias = forward.bias;
    backward.dx = at(11), backward.dresidual = at(12);
    backward.dweight = {at(13), SYNCNORM_FLOAT32}, backward.dbias = {at(14), SYNCNORM_FLOAT32};
  }
  syncnorm_status run_forward() {
    before = memory;
    return syncnorm_forward(&shape, &options, &forward, nullptr, &launch);
  }
  syncnorm_status run_backward() {
    before = memory;
    return syncnorm_backward(&shape, &options, &backward, nullptr, &launch);
  }
};

template <class Spoil>
void forward_refused(const char* text, Spoil&& spoil) {
  CAPTURE(text);
  Call call;
  spoil(call);
  CHECK(call.run_forward() == SYNCNORM_INVALID_ARGUMENT);
  CAPTURE(syncnorm_last_error());
  CHECK(says(text));
  CHECK(std::memcmp(call.memory.data(), call.before.data(), 8 * call.memory.size()) == 0);
}

template <class Spoil>
void backward_refused(const char* text, Spoil&& spoil) {
  CAPTURE(text);
  Call call;
  spoil(call);
  CHECK(call.run_backward() == SYNCNORM_INVALID_ARGUMENT);
  CAPTURE(syncnorm_last_error());
  CHECK(says(text));
  CHECK(std::memcmp(call.memory.data(), call.before.data(), 8 * call.memory.size()) == 0);
}

void* shifted(double* data, std::ptrdiff_t bytes) {
  return reinterpret_cast<unsigned char*>(data) + bytes;
}

}  // namespace

TEST_CASE("the unspoiled call is accepted") {
  Call call;
  CHECK(call.run_forward() == SYNCNORM_OK);
  CHECK(call.run_backward() == SYNCNORM_OK);
}

TEST_CASE("a forward pass whose outputs overlap other buffers is refused") {
  forward_refused("y overlaps x", [](Call& c) { c.forward.y = c.at(0); });
  forward_refused("y overlaps x", [](Call& c) { c.forward.y = shifted(c.at(0), 4); });
  forward_refused("y overlaps residual", [](Call& c) { c.forward.y = shifted(c.at(1), -4); });
  forward_refused("y overlaps weight", [](Call& c) { c.forward.y = c.at(4); });
  forward_refused("y overlaps bias", [](Call& c) { c.forward.y = shifted(c.at(5), 8); });
  forward_refused("y overlaps mask", [](Call& c) { c.forward.y = c.at(8); });
  forward_refused("y overlaps running_mean", [](Call& c) { c.forward.y = c.at(6); });
  forward_refused("y overlaps num_batches_tracked", [](Call& c) { c.forward.y = c.at(9); });
  forward_refused("y overlaps saved", [](Call& c) { c.forward.y = shifted(c.at(3), 84); });
  forward_refused("running_mean overlaps running_var",
                  [](Call& c) { c.forward.running_mean.data = c.at(7); });
  forward_refused("running_mean overlaps running_var",
                  [](Call& c) { c.forward.running_mean.data = shifted(c.at(7), 8); });
  forward_refused("running_var overlaps weight",
                  [](Call& c) { c.forward.running_var.data = c.at(4); });
  forward_refused("running_mean overlaps num_batches_tracked",
                  [](Call& c) { c.forward.running_mean.data = c.at(9); });
  forward_refused("saved overlaps x", [](Call& c) { c.forward.saved = c.at(0) + 11; });
  forward_refused("saved overlaps bias", [](Call& c) { c.forward.saved = c.at(5) - 10; });
}

TEST_CASE("a backward pass whose outputs overlap other buffers is refused") {
  backward_refused("dx overlaps x", [](Call& c) { c.backward.dx = c.at(0); });
  backward_refused("dx overlaps dy", [](Call& c) { c.backward.dx = shifted(c.at(10), 4); });
  backward_refused("dx overlaps y", [](Call& c) { c.backward.dx = c.at(2); });
  backward_refused("dx overlaps saved", [](Call& c) { c.backward.dx = c.at(3) + 10; });
  backward_refused("dx overlaps weight", [](Call& c) { c.backward.dx = c.at(4); });
  backward_refused("dx overlaps mask", [](Call& c) { c.backward.dx = c.at(8); });
  backward_refused("dx overlaps dweight", [](Call& c) { c.backward.dweight.data = c.at(11); });
  backward_refused("dx overlaps dresidual",
                   [](Call& c) { c.backward.dresidual = shifted(c.at(11), 8); });
  backward_refused("dresidual overlaps x", [](Call& c) { c.backward.dresidual = c.at(0); });
  backward_refused("dweight overlaps dbias", [](Call& c) { c.backward.dweight.data = c.at(14); });
  backward_refused("dbias overlaps weight", [](Call& c) { c.backward.dbias.data = c.at(4); });
  backward_refused("dweight overlaps saved", [](Call& c) { c.backward.dweight.data = c.at(3); });
}

TEST_CASE("the buffers that may be the same are accepted") {
  const auto forward_accepted = [](auto&& spoil) {
    Call call;
    spoil(call);
    CHECK(call.run_forward() == SYNCNORM_OK);
  };
  const auto backward_accepted = [](auto&& spoil) {
    Call call;
    spoil(call);
    CHECK(call.run_backward() == SYNCNORM_OK);
  };
  forward_accepted([](Call& c) { c.forward.y = c.at(1); });
  forward_accepted([](Call& c) {
    c.forward.y = c.at(0);
    c.forward.saved = nullptr;
  });
  forward_accepted([](Call& c) {
    c.forward.y = c.at(0);
    c.forward.residual = nullptr;
    c.options.in_place = 1;
    c.options.activation = SYNCNORM_ELU;
  });
  forward_accepted([](Call& c) { c.forward.bias = c.forward.weight; });
  forward_accepted([](Call& c) { c.forward.residual = c.at(0); });
  backward_accepted([](Call& c) { c.backward.dx = c.at(10); });
  backward_accepted([](Call& c) { c.backward.dresidual = c.at(10); });
  // Buffers without values overlap nothing.
  forward_accepted([](Call& c) {
    c.shape.n = 0;
    c.forward.y = shifted(c.at(4), 4);
  });
  // Neighbours do not overlap.
  forward_accepted([](Call& c) { c.forward.running_mean.data = shifted(c.at(7), -12); });
}

TEST_CASE("running statistics that are inputs may be the same, outputs may not") {
  Call call;
  call.forward.running_mean = call.forward.running_var;
  CHECK(syncnorm_infer(&call.shape, &call.options, &call.forward, &call.launch) == SYNCNORM_OK);
  CHECK(syncnorm_moments(&call.shape, &call.options, &call.forward, call.wire, nullptr,
                         &call.launch) == SYNCNORM_INVALID_ARGUMENT);
  CHECK(says("running_mean overlaps running_var"));
  CHECK(syncnorm_update_running(&call.shape, &call.options, &call.forward, 1, call.wire, call.wire,
                                nullptr, &call.launch) == SYNCNORM_INVALID_ARGUMENT);
  CHECK(says("running_mean overlaps running_var"));
  call.forward.y = call.forward.running_var.data;
  CHECK(syncnorm_infer(&call.shape, &call.options, &call.forward, &call.launch) ==
        SYNCNORM_INVALID_ARGUMENT);
  CHECK(says("y overlaps running_mean"));
}

TEST_CASE("a number of batches that cannot be counted on is refused") {
  for (const std::int64_t value : {std::int64_t{-1}, INT64_MIN, INT64_MAX})
    for (const double momentum : {0.1, SYNCNORM_MOMENTUM_CUMULATIVE})
      forward_refused("num_batches_tracked is", [=](Call& c) {
        c.options.momentum = momentum;
        c.set_counter(value);
      });
  Call call;
  call.set_counter(INT64_MAX - 1);
  CHECK(call.run_forward() == SYNCNORM_OK);
  CHECK(*call.forward.num_batches_tracked == INT64_MAX);
  call.forward.running_mean.data = call.forward.running_var.data = nullptr;  // not counted then
  CHECK(call.run_forward() == SYNCNORM_OK);
}

TEST_CASE("threads, ranks and wires beyond the limits are refused") {
  for (const std::int32_t threads : {static_cast<std::int32_t>(kMaxThreads + 1), INT32_MAX})
    forward_refused("launch.num_threads is", [=](Call& c) { c.launch.num_threads = threads; });
  Call call;
  call.launch.num_threads = static_cast<std::int32_t>(kMaxThreads);  // of which few have work
  CHECK(call.run_forward() == SYNCNORM_OK);

  const auto normalize = [&](std::int64_t group) {
    const double total[10] = {};
    return syncnorm_normalize(&call.shape, &call.options, &call.forward, group, call.wire, total,
                              nullptr, &call.launch);
  };
  CHECK(normalize(kMaxGroup) == SYNCNORM_OK);
  for (const std::int64_t group : {kMaxGroup + 1, INT64_MAX}) {
    CHECK(normalize(group) == SYNCNORM_INVALID_ARGUMENT);
    CHECK(says("group_size is"));
  }

  double total = -7.0;
  const std::int64_t huge = std::int64_t{1} << 62;
  const std::int64_t wires[][2] = {{4, huge}, {huge, 4}, {INT64_MAX, INT64_MAX}, {0, huge}};
  for (const auto& [ranks, length] : wires) {
    CHECK(syncnorm_add_wires(call.wire, ranks, length, &total, &call.launch) ==
          SYNCNORM_INVALID_ARGUMENT);
    CHECK(says("length is"));
  }
  CHECK(total == -7.0);
}
