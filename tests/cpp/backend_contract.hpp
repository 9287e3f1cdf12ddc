// What every backend owes its callers, through the C interface. Written once, run on each backend.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "backend_reference.hpp"
#include "doctest/doctest.h"
#include "math/float16.hpp"
#include "syncnorm/syncnorm.h"

namespace contract {

// The memory and stream of the device under test.
class Device {
 public:
  virtual ~Device() = default;
  virtual syncnorm_device kind() const = 0;
  virtual void* stream() const = 0;
  virtual std::shared_ptr<void> allocate(std::size_t bytes) = 0;  // 64-byte aligned
  virtual void upload(void* to, const void* from, std::size_t bytes) = 0;
  virtual void download(void* to, const void* from, std::size_t bytes) = 0;  // after all work
  // For a workspace, whose content must not matter.
  virtual void fill_with_garbage(void* memory, std::size_t bytes) {
    const std::vector<unsigned char> garbage(bytes, 0xa5);
    upload(memory, garbage.data(), bytes);
  }
  // Around the phases of every case.
  virtual void before_phases() {}
  virtual void after_phases() {}
};

inline std::size_t size_of(syncnorm_dtype dtype) {
  return dtype == SYNCNORM_FLOAT64 ? 8 : dtype == SYNCNORM_FLOAT32 ? 4 : 2;
}

inline double epsilon(syncnorm_dtype dtype) {
  const double bits[] = {0x1p-10, 0x1p-7, 0x1p-23, 0x1p-52};
  return bits[dtype];
}

inline int digits(syncnorm_dtype dtype) { return 1 - std::ilogb(epsilon(dtype)); }

inline void encode(syncnorm_dtype dtype, double value, unsigned char* to) {
  const auto put = [to](auto v) { std::memcpy(to, &v, sizeof(v)); };
  if (dtype == SYNCNORM_FLOAT64) return put(value);
  const auto single = static_cast<float>(value);
  if (dtype == SYNCNORM_FLOAT32) return put(single);
  put(dtype == SYNCNORM_FLOAT16 ? syncnorm::to_half(single).bits
                                : syncnorm::to_bfloat16(single).bits);
}

inline double decode(syncnorm_dtype dtype, const unsigned char* from) {
  const auto get = [from](auto v) {
    std::memcpy(&v, from, sizeof(v));
    return v;
  };
  if (dtype == SYNCNORM_FLOAT64) return get(0.0);
  if (dtype == SYNCNORM_FLOAT32) return static_cast<double>(get(0.0f));
  const std::uint16_t bits = get(std::uint16_t{});
  return static_cast<double>(dtype == SYNCNORM_FLOAT16
                                 ? syncnorm::to_float(syncnorm::Half{bits})
                                 : syncnorm::to_float(syncnorm::BFloat16{bits}));
}

inline double rounded(syncnorm_dtype dtype, double value) {
  unsigned char bytes[8];
  encode(dtype, value, bytes);
  return decode(dtype, bytes);
}

// A device array of one dtype between guard bytes; starts as NaN. It begins `shift` values past an
// aligned address.
class Buffer {
 public:
  Buffer(Device& device, syncnorm_dtype dtype, std::size_t count, std::size_t shift = 0)
      : device_(&device),
        dtype_(dtype),
        count_(count),
        before_(kGuard + shift * size_of(dtype)),
        memory_(device.allocate(before_ + bytes() + kGuard)) {
    poison();
  }
  void poison() {
    const std::vector<unsigned char> nan(before_ + bytes() + kGuard, 0xff);  // in every dtype
    device_->upload(memory_.get(), nan.data(), nan.size());
  }
  void* data() const { return static_cast<unsigned char*>(memory_.get()) + before_; }
  double* doubles() const { return static_cast<double*>(data()); }
  syncnorm_vector vector() const { return {data(), dtype_}; }

  void set(const std::vector<double>& values) {
    std::vector<unsigned char> raw(bytes());
    for (std::size_t i = 0; i < count_; ++i) encode(dtype_, values[i], &raw[i * size_of(dtype_)]);
    device_->upload(data(), raw.data(), raw.size());
  }
  std::vector<double> get() const {
    const std::vector<unsigned char> all = raw();
    const auto intact = [](unsigned char byte) { return byte == 0xff; };
    const unsigned char* first = all.data() + before_;
    REQUIRE(std::all_of(all.data(), first, intact));
    REQUIRE(std::all_of(first + bytes(), all.data() + all.size(), intact));
    std::vector<double> values(count_);
    for (std::size_t i = 0; i < count_; ++i)
      values[i] = decode(dtype_, first + i * size_of(dtype_));
    return values;
  }
  std::vector<unsigned char> raw() const {
    std::vector<unsigned char> all(before_ + bytes() + kGuard);
    device_->download(all.data(), memory_.get(), all.size());
    return all;
  }

 private:
  static constexpr std::size_t kGuard = 64;
  std::size_t bytes() const { return count_ * size_of(dtype_); }

  Device* device_;
  syncnorm_dtype dtype_;
  std::size_t count_;
  std::size_t before_;  // bytes in front of the first value
  std::shared_ptr<void> memory_;
};

struct Case {
  syncnorm_dtype dtype = SYNCNORM_FLOAT32;
  syncnorm_layout layout = SYNCNORM_CHANNELS_FIRST;
  std::int64_t c = 3;
  std::int64_t s = 7;
  std::vector<std::int64_t> samples = {4, 2, 3};  // per rank
  bool masked = false;
  bool residual = false;
  syncnorm_options options = SYNCNORM_OPTIONS_INIT;
  int threads = 2;
  double offset = 3.0;
  // Values past an aligned address at which x begins, and the other tensors of its shape.
  std::size_t shift_of_x = 0;
  std::size_t shift_of_others = 0;
  bool control = false;    // give launch.control, where the device has a use for it
  bool overwrite = false;  // y is x's buffer
};

// Between (n, c, s) in channels-first order and the order of the case's layout.
inline std::vector<double> in_layout(const Case& k, const std::vector<double>& values,
                                     std::int64_t n, bool back) {
  if (k.layout == SYNCNORM_CHANNELS_FIRST) return values;
  std::vector<double> moved(values.size());
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t c = 0; c < k.c; ++c)
      for (std::int64_t s = 0; s < k.s; ++s) {
        const auto first = static_cast<std::size_t>((i * k.c + c) * k.s + s);
        const auto last = static_cast<std::size_t>((i * k.s + s) * k.c + c);
        moved[back ? first : last] = values[back ? last : first];
      }
  return moved;
}

inline std::vector<reference::Shard> make_shards(const Case& k, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<reference::Shard> shards;
  for (const std::int64_t n : k.samples) {
    reference::Shard shard{n, k.c, k.s, {}, {}, {}, {}, {}};
    const auto size = static_cast<std::size_t>(n * k.c * k.s);
    const auto fill = [&](std::vector<double>& values, double offset) {
      for (std::size_t i = 0; i < size; ++i)
        values.push_back(rounded(k.dtype, offset + 2 * normal(random)));
    };
    fill(shard.x, k.offset);
    fill(shard.dy, 0);
    if (k.residual) fill(shard.residual, 0);
    for (std::int64_t i = 0; k.masked && i < n * k.s; ++i)
      shard.mask.push_back(random() % 3 == 0 ? 0 : static_cast<std::uint8_t>(1 + random() % 255));
    shards.push_back(shard);
  }
  return shards;
}

// One rank's buffers and the C structs that point at them.
struct Rank {
  syncnorm_shape shape = SYNCNORM_SHAPE_INIT;
  syncnorm_forward_args forward = SYNCNORM_FORWARD_ARGS_INIT;
  syncnorm_backward_args backward = SYNCNORM_BACKWARD_ARGS_INIT;
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  syncnorm_sizes sizes = SYNCNORM_SIZES_INIT;
  Buffer x, residual, y, dy, dx, dresidual, weight, bias, running_mean, running_var, dweight, dbias;
  Buffer wire, total, local_var, center_wire, center_total, grad_wire, grad_total, saved;
  std::shared_ptr<void> mask, workspace, batches, control;

  Rank(Device& d, const Case& k, const reference::Shard& shard, const reference::Problem& problem,
       syncnorm_dtype parameters)
      : x(d, k.dtype, shard.x.size(), k.shift_of_x),
        residual(d, k.dtype, shard.x.size(), k.shift_of_others),
        y(d, k.dtype, shard.x.size(), k.shift_of_others),
        dy(d, k.dtype, shard.x.size(), k.shift_of_others),
        dx(d, k.dtype, shard.x.size(), k.shift_of_others),
        dresidual(d, k.dtype, shard.x.size(), k.shift_of_others),
        weight(d, parameters, channels(k)),
        bias(d, parameters, channels(k)),
        running_mean(d, parameters, channels(k)),
        running_var(d, parameters, channels(k)),
        dweight(d, parameters, channels(k)),
        dbias(d, parameters, channels(k)),
        wire(d, SYNCNORM_FLOAT64, 2 * channels(k) + 4),
        total(d, SYNCNORM_FLOAT64, 2 * channels(k) + 4),
        local_var(d, SYNCNORM_FLOAT64, channels(k)),
        center_wire(d, SYNCNORM_FLOAT64, channels(k) + 2 + channels(k) % 2),
        center_total(d, SYNCNORM_FLOAT64, channels(k) + 2 + channels(k) % 2),
        grad_wire(d, SYNCNORM_FLOAT64, 2 * channels(k) + 2),
        grad_total(d, SYNCNORM_FLOAT64, 2 * channels(k) + 2),
        saved(d, SYNCNORM_FLOAT64, 3 * channels(k) + 2) {
    shape.n = shard.n, shape.c = shard.c, shape.s = shard.s;
    shape.dtype = k.dtype, shape.layout = k.layout;
    REQUIRE(syncnorm_query_sizes(&shape, &k.options, d.kind(), &sizes) == SYNCNORM_OK);
    workspace = d.allocate(sizes.workspace_size);
    if (k.masked) mask = d.allocate(std::max<std::size_t>(shard.mask.size(), 1));
    batches = d.allocate(sizeof(std::int64_t));
    if (k.control) {
      control = d.allocate(SYNCNORM_CONTROL_SIZE);
      const std::vector<unsigned char> zeros(SYNCNORM_CONTROL_SIZE);
      d.upload(control.get(), zeros.data(), zeros.size());
    }
    launch.device = d.kind(), launch.stream = d.stream(), launch.num_threads = k.threads;
    launch.workspace = workspace.get(), launch.workspace_size = sizes.workspace_size;
    launch.control = control.get();
    load(d, k, shard, problem);
    point(k);
  }
  const Buffer& output(const Case& k) const { return k.overwrite ? x : y; }

  // Writes all inputs and garbage into the workspace; y and dx become NaN.
  void load(Device& d, const Case& k, const reference::Shard& shard,
            const reference::Problem& problem) {
    x.set(in_layout(k, shard.x, shard.n, false));
    dy.set(in_layout(k, shard.dy, shard.n, false));
    if (k.residual) residual.set(in_layout(k, shard.residual, shard.n, false));
    weight.set(problem.weight), bias.set(problem.bias);
    running_mean.set(problem.running_mean), running_var.set(problem.running_var);
    if (k.masked) d.upload(mask.get(), shard.mask.data(), shard.mask.size());
    const std::int64_t none = 0;
    d.upload(batches.get(), &none, sizeof(none));
    y.poison(), dx.poison();
    d.fill_with_garbage(workspace.get(), sizes.workspace_size);
  }

  bool centered() const { return sizes.center_wire_length > 0; }

 private:
  static std::size_t channels(const Case& k) { return static_cast<std::size_t>(k.c); }

  void point(const Case& k) {
    const auto* flags = static_cast<const std::uint8_t*>(mask.get());
    forward.x = x.data(), forward.y = output(k).data(), forward.mask = flags;
    forward.residual = k.residual ? residual.data() : nullptr;
    forward.weight = weight.vector(), forward.bias = bias.vector();
    forward.running_mean = running_mean.vector(), forward.running_var = running_var.vector();
    forward.num_batches_tracked = static_cast<std::int64_t*>(batches.get());
    forward.saved = saved.doubles();
    backward.x = x.data(), backward.dy = dy.data(), backward.mask = flags;
    backward.y = k.residual && k.options.activation != SYNCNORM_IDENTITY ? y.data() : nullptr;
    backward.weight = weight.vector(), backward.bias = bias.vector();
    backward.saved = saved.doubles(), backward.dx = dx.data();
    backward.dresidual = dresidual.data();
    backward.dweight = dweight.vector(), backward.dbias = dbias.vector();
    if (k.options.in_place != 0) backward.x = output(k).data(), backward.dresidual = nullptr;
  }
};

}  // namespace contract
