// Every kind of kernel on tensors of a few thousand values: small enough for ThreadSanitizer, and
// to be repeated with other orders of blocks and threads.
#include "backend_run.hpp"
#include "cuda_device.hpp"

contract::Device& contract::device_under_test() { return cuda_device(); }

namespace contract {
namespace {

struct Shape {
  syncnorm_layout layout;
  std::int64_t c, s;
};

// Large enough for several blocks per channel.
constexpr Shape kShapes[] = {
    {SYNCNORM_CHANNELS_LAST, 8, 1100},   // rows, one tile
    {SYNCNORM_CHANNELS_LAST, 300, 9},    // rows, several tiles
    {SYNCNORM_CHANNELS_LAST, 3, 2050},   // rows of joined positions
    {SYNCNORM_CHANNELS_FIRST, 40, 36},   // rows of whole samples
    {SYNCNORM_CHANNELS_FIRST, 2, 4096},  // planes
    {SYNCNORM_CHANNELS_FIRST, 2, 3001},  // planes that begin and end within packs
};

Case case_of(const Shape& shape, std::vector<std::int64_t> samples) {
  Case k;
  k.layout = shape.layout, k.c = shape.c, k.s = shape.s, k.samples = std::move(samples);
  return k;
}

TEST_CASE("phases, without and with a mask") {
  for (const Shape& shape : kShapes)
    for (const bool masked : {false, true}) {
      Case k = case_of(shape, {3, 1});
      k.masked = masked, k.residual = !masked, k.options.activation = SYNCNORM_RELU;
      check_case(k, SYNCNORM_FLOAT32);
    }
}

TEST_CASE("a group of one in one call") {
  for (const Shape& shape : kShapes) {
    Case k = case_of(shape, {3});
    k.options.activation = SYNCNORM_LEAKY_RELU;
    check_case(k, SYNCNORM_FLOAT32);
  }
}

TEST_CASE("in place, y over x") {
  for (const Shape& shape : kShapes) {
    Case k = case_of(shape, {3});
    k.options.in_place = 1, k.overwrite = true, k.options.activation = SYNCNORM_ELU;
    check_case(k, SYNCNORM_FLOAT32);
  }
}

TEST_CASE("16-bit packs, and float64 with centring") {
  for (const syncnorm_dtype dtype : {SYNCNORM_BFLOAT16, SYNCNORM_FLOAT64})
    for (const Shape& shape : {kShapes[0], kShapes[4]}) {
      Case k = case_of(shape, {2});
      k.dtype = dtype;
      check_case(k, parameters_of(dtype));
    }
}

}  // namespace
}  // namespace contract
