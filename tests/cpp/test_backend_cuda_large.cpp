// Tensors that fill a device, or a large part of it. Not for the simulated devices of tests/simt.
#include <array>
#include <cstring>

#include "backend_run.hpp"
#include "cuda_device.hpp"

contract::Device& contract::device_under_test() { return cuda_device(); }

namespace contract {
namespace {

constexpr std::size_t kPeriod = std::size_t{1}
                                << 20;  // values, after which a tensor repeats itself
constexpr std::size_t kHalf = 2;        // bytes of a float16

using Pattern = std::vector<double>;

Pattern make_pattern(unsigned seed, double offset) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(offset, 1.0);
  Pattern values(kPeriod);
  for (double& value : values) value = rounded(SYNCNORM_FLOAT16, normal(random));
  return values;
}

std::vector<unsigned char> encoded(const Pattern& pattern) {
  std::vector<unsigned char> bytes(kPeriod * kHalf);
  for (std::size_t i = 0; i < kPeriod; ++i) encode(SYNCNORM_FLOAT16, pattern[i], &bytes[i * kHalf]);
  return bytes;
}

// A device array of `count` float16 in repetition of a pattern, or all NaN.
class Repeated {
 public:
  explicit Repeated(std::size_t count) : bytes_(count * kHalf) {
    require_cuda(cudaMalloc(&memory_, bytes_));
    require_cuda(cudaMemset(memory_, 0xff, bytes_));
  }
  Repeated(std::size_t count, const Pattern& pattern) : Repeated(count) {
    const std::vector<unsigned char> once = encoded(pattern);
    std::size_t done = std::min(once.size(), bytes_);
    require_cuda(cudaMemcpy(memory_, once.data(), done, cudaMemcpyHostToDevice));
    for (; done < bytes_; done += std::min(done, bytes_ - done))
      require_cuda(
          cudaMemcpy(at(done), memory_, std::min(done, bytes_ - done), cudaMemcpyDeviceToDevice));
    require_cuda(cudaDeviceSynchronize());
  }
  ~Repeated() { (void)cudaFree(memory_); }
  Repeated(const Repeated&) = delete;
  Repeated& operator=(const Repeated&) = delete;
  void* data() const { return memory_; }

  // The first period, having checked that all others are the same.
  Pattern period() const {
    std::vector<unsigned char> first(kPeriod * kHalf), other(first.size());
    bool repeats = true;
    for (std::size_t from = 0; from < bytes_; from += first.size()) {
      const std::size_t size = std::min(first.size(), bytes_ - from);
      std::vector<unsigned char>& to = from == 0 ? first : other;
      require_cuda(cudaMemcpy(to.data(), at(from), size, cudaMemcpyDeviceToHost));
      repeats = repeats && (from == 0 || std::memcmp(first.data(), other.data(), size) == 0);
    }
    CHECK(repeats);
    Pattern values(kPeriod);
    for (std::size_t i = 0; i < kPeriod; ++i)
      values[i] = decode(SYNCNORM_FLOAT16, &first[i * kHalf]);
    return values;
  }

 private:
  void* at(std::size_t byte) const { return static_cast<unsigned char*>(memory_) + byte; }
  void* memory_ = nullptr;
  std::size_t bytes_;
};

struct Expected {
  Pattern y, dx;
};

// Of weight 1, bias 0. Each value of the period counts as often as it is repeated.
Expected expect(const Case& k, const Pattern& x, const Pattern& dy) {
  const std::size_t count = static_cast<std::size_t>(k.samples[0] * k.c * k.s);
  const auto c = static_cast<std::size_t>(k.c), s = static_cast<std::size_t>(k.s);
  const auto channel = [&](std::size_t i) {
    return k.layout == SYNCNORM_CHANNELS_LAST ? i % c : i / s % c;
  };
  const auto times = [&](std::size_t i) {
    return static_cast<double>(count / kPeriod + (i < count % kPeriod ? 1 : 0));
  };
  struct Sums {
    double n = 0, x = 0, square = 0, dy = 0, product = 0;
  };
  std::vector<Sums> sums(c);
  for (std::size_t i = 0; i < kPeriod; ++i) {
    Sums& of = sums[channel(i)];
    of.n += times(i), of.x += times(i) * x[i], of.square += times(i) * x[i] * x[i];
    of.dy += times(i) * dy[i], of.product += times(i) * dy[i] * x[i];
  }
  Expected expected{Pattern(kPeriod), Pattern(kPeriod)};
  for (std::size_t i = 0; i < kPeriod; ++i) {
    const Sums& of = sums[channel(i)];
    const double mean = of.x / of.n;
    const double invstd = 1 / std::sqrt(of.square / of.n - mean * mean + k.options.eps);
    const double xhat = (x[i] - mean) * invstd;
    const double dweight = (of.product - mean * of.dy) * invstd;
    expected.y[i] = xhat;
    expected.dx[i] = invstd * (dy[i] - (of.dy + xhat * dweight) / of.n);
  }
  return expected;
}

void check_repeated(const Case& k) {
  const Pattern x_pattern = make_pattern(1, 0.5), dy_pattern = make_pattern(2, 0.25);
  const std::size_t count = static_cast<std::size_t>(k.samples[0] * k.c * k.s);
  const Repeated x(count, x_pattern), dy(count, dy_pattern), y(count), dx(count);
  // A rank of the same options without values: it knows how to lend its buffers of C values.
  Case empty = k;
  empty.samples = {0};
  std::vector<Rank> ranks = make_ranks(empty, make_shards(empty, 1),
                                       make_problem(empty, SYNCNORM_FLOAT32), SYNCNORM_FLOAT32);
  Rank& rank = ranks[0];
  rank.shape.n = k.samples[0];
  REQUIRE(syncnorm_query_sizes(&rank.shape, &k.options, SYNCNORM_CUDA, &rank.sizes) == SYNCNORM_OK);
  rank.workspace = device_under_test().allocate(rank.sizes.workspace_size);
  rank.launch.workspace = rank.workspace.get();
  rank.launch.workspace_size = rank.sizes.workspace_size;
  rank.forward.x = rank.backward.x = x.data();
  rank.forward.y = y.data(), rank.backward.dy = dy.data(), rank.backward.dx = dx.data();
  rank.backward.dresidual = nullptr;
  rank.forward.weight.data = rank.backward.weight.data = nullptr;
  rank.forward.bias.data = rank.backward.bias.data = nullptr;
  run_one_call(k, rank);
  require_cuda(cudaDeviceSynchronize());
  const Expected expected = expect(k, x_pattern, dy_pattern);
  check_close("y", y.period(), expected.y, 0x1p-10, 1e-5);
  check_close("dx", dx.period(), expected.dx, 0x1p-10, 1e-5);
}

TEST_CASE("more values than 32 bits can count") {
  // Samples, or a channel, of one period; and one channel that ends within a period.
  const struct {
    syncnorm_layout layout;
    std::int64_t n, c, s;
  } shapes[] = {{SYNCNORM_CHANNELS_FIRST, 4099, 4, 1 << 18},
                {SYNCNORM_CHANNELS_LAST, 4099, 64, 1 << 14},
                {SYNCNORM_CHANNELS_FIRST, 1, 1, (std::int64_t{1} << 32) + 12345}};
  for (const auto& shape : shapes) {
    INFO("layout ", shape.layout, " N ", shape.n, " C ", shape.c, " S ", shape.s);
    Case k;
    k.dtype = SYNCNORM_FLOAT16, k.layout = shape.layout;
    k.samples = {shape.n}, k.c = shape.c, k.s = shape.s;
    void* room = nullptr;
    const std::size_t bytes = 4 * kHalf * static_cast<std::size_t>(shape.n * shape.c * shape.s);
    if (cudaMalloc(&room, bytes + (bytes >> 6)) != cudaSuccess) {
      (void)cudaGetLastError();
      MESSAGE("not run: this device has no ", bytes >> 20, " MiB to spare");
      continue;
    }
    require_cuda(cudaFree(room));
    check_repeated(k);
  }
}

TEST_CASE("tensors of the size of an L2 cache, and larger ones") {
  const std::array<std::array<std::int64_t, 3>, 4> shapes = {
      {{8, 64, 4096}, {16, 96, 3136}, {16, 128, 4096}, {48, 64, 4096}}};
  for (const syncnorm_layout layout : {SYNCNORM_CHANNELS_FIRST, SYNCNORM_CHANNELS_LAST})
    for (const auto& [n, c, s] : shapes) {
      Case k;
      k.layout = layout, k.samples = {n}, k.c = c, k.s = s;
      check_case(k, SYNCNORM_FLOAT32);
    }
}

}  // namespace
}  // namespace contract
