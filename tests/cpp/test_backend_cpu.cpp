// The backend contract on the CPU. Run once per instruction set (SYNCNORM_CPU_ISA).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "backend_cases.hpp"

namespace {

class Cpu final : public contract::Device {
 public:
  syncnorm_device kind() const override { return SYNCNORM_CPU; }
  void* stream() const override { return nullptr; }
  std::shared_ptr<void> allocate(std::size_t bytes) override {
    constexpr std::align_val_t kAlignment{64};
    return {::operator new(bytes, kAlignment),
            [](void* memory) { ::operator delete(memory, kAlignment); }};
  }
  void upload(void* to, const void* from, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void download(void* to, const void* from, std::size_t bytes) override { upload(to, from, bytes); }
};

}  // namespace

contract::Device& contract::device_under_test() {
  static Cpu cpu;
  return cpu;
}

namespace {

// elu(x); in place the dweight of a backward pass whose output was x, and dy 1.
template <class T>
std::vector<T> one_pass(std::vector<T> x, bool in_place) {
  syncnorm_shape shape = SYNCNORM_SHAPE_INIT;
  shape.n = 1, shape.c = static_cast<std::int64_t>(x.size());
  shape.dtype = sizeof(T) == 8 ? SYNCNORM_FLOAT64 : SYNCNORM_FLOAT32;
  syncnorm_options options = SYNCNORM_OPTIONS_INIT;
  options.eps = 0, options.activation = SYNCNORM_ELU, options.in_place = in_place ? 1 : 0;
  syncnorm_sizes sizes = SYNCNORM_SIZES_INIT;
  REQUIRE(syncnorm_query_sizes(&shape, &options, SYNCNORM_CPU, &sizes) == SYNCNORM_OK);
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  const auto workspace = contract::device_under_test().allocate(sizes.workspace_size);
  launch.workspace = workspace.get(), launch.workspace_size = sizes.workspace_size;

  std::vector<T> mean(x.size()), ones(x.size(), T(1)), out(x.size());
  std::vector<double> saved(static_cast<std::size_t>(sizes.saved_length));
  syncnorm_forward_args forward = SYNCNORM_FORWARD_ARGS_INIT;
  forward.x = x.data(), forward.y = out.data(), forward.saved = saved.data();
  forward.running_mean = {mean.data(), shape.dtype};
  forward.running_var = {ones.data(), shape.dtype};
  REQUIRE(syncnorm_infer(&shape, &options, &forward, &launch) == SYNCNORM_OK);
  if (!in_place) return out;
  syncnorm_backward_args backward = SYNCNORM_BACKWARD_ARGS_INIT;
  backward.x = x.data(), backward.dy = ones.data(), backward.saved = saved.data();
  backward.dweight = {out.data(), shape.dtype};
  REQUIRE(syncnorm_infer_backward(&shape, &options, &backward, &launch) == SYNCNORM_OK);
  return out;
}

// In units of the last place of what is expected.
template <class T>
double worst_error(const std::vector<T>& x, const std::vector<T>& got,
                   long double (*expected)(long double)) {
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const long double want = expected(static_cast<long double>(x[i]));
    const T near = std::abs(static_cast<T>(want));
    const T ulp = std::nextafter(near, std::numeric_limits<T>::infinity()) - near;
    const long double error = std::abs(static_cast<long double>(got[i]) - want);
    worst = std::max(worst, static_cast<double>(error / static_cast<long double>(ulp)));
  }
  return worst;
}

template <class T>
void check_elu() {
  std::vector<T> x, y;
  for (int i = 0; i < 50000; ++i) {
    x.push_back(static_cast<T>(-std::exp(-60.0 + i * 65.0 / 50000)));
    y.push_back(static_cast<T>(std::expm1(-std::exp(-60.0 + i * 63.0 / 50000))));
  }
  CHECK(worst_error<T>(x, one_pass(x, false), [](long double z) { return std::expm1(z); }) <= 1.5);
  // dy' times what is recovered of xhat: a rounding each for y + 1 and for the product.
  const auto product = [](long double v) {
    return static_cast<long double>(static_cast<T>(v) + T(1)) * std::log1p(v);
  };
  std::erase_if(y, [](T v) { return v == T(-1); });
  CHECK(worst_error<T>(y, one_pass(y, true), product) <= 2.0);
}

}  // namespace

TEST_CASE("elu and its inverse are correct to about a unit in the last place") {
  check_elu<float>();
  check_elu<double>();
}

TEST_CASE("the instruction set that was asked for is the one in use") {
  const char* wanted = std::getenv("SYNCNORM_CPU_ISA");
  if (wanted == nullptr) return;
  syncnorm_capabilities capabilities = SYNCNORM_CAPABILITIES_INIT;
  REQUIRE(syncnorm_query_capabilities(&capabilities) == SYNCNORM_OK);
  if (std::string(capabilities.cpu_isa) != wanted)
    MESSAGE("this machine has no ", wanted, "; the tests ran with ", capabilities.cpu_isa);
}
