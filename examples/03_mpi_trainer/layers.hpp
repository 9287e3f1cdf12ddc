// The layers of a small convolutional network, with hand-written gradients. Values are in float64,
// so that what different numbers of ranks compute can be told apart from rounding.
//
// forward keeps what backward needs; backward takes the gradient of forward's result, sets those of
// the parameters, as far as they come from this rank's samples, and returns that of forward's x.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "syncnorm/syncnorm.hpp"

using Values = std::vector<double>;
using Random = std::mt19937_64;

struct Parameter {
  Parameter(std::string its_name, std::size_t size, double initial)
      : name(std::move(its_name)), value(size, initial), gradient(size), velocity(size) {}

  std::string name;
  Values value, gradient, velocity;
};

// x is (n, in, side, side), y (n, out, y_side, y_side). Without a bias, which a batch norm behind
// it would subtract again. With a kernel as large as the image it is a linear layer.
class Convolution {
 public:
  struct Size {
    std::size_t in, out, side, kernel, stride, padding;
    std::size_t y_side() const { return (side + 2 * padding - kernel) / stride + 1; }
    std::size_t fan_in() const { return in * kernel * kernel; }
  };

  Convolution(const std::string& name, const Size& size, Random& random)
      : weight(name + ".weight", size.out * size.fan_in(), 0), size_(size) {
    const double range = std::sqrt(6 / static_cast<double>(size.fan_in()));  // as He et al. have it
    for (double& w : weight.value) {
      w = range * (std::ldexp(static_cast<double>(random()), -63) - 1);
    }
  }

  Values forward(Values x) {
    x_ = std::move(x);
    Values y(maps() * size_.y_side() * size_.y_side());
    for_each_product([&](std::size_t i_y, std::size_t i_w, std::size_t i_x) {
      y[i_y] += weight.value[i_w] * x_[i_x];
    });
    return y;
  }

  Values backward(const Values& dy) {
    Values dx(x_.size());
    std::fill(weight.gradient.begin(), weight.gradient.end(), 0.0);
    for_each_product([&](std::size_t i_y, std::size_t i_w, std::size_t i_x) {
      weight.gradient[i_w] += dy[i_y] * x_[i_x];
      dx[i_x] += dy[i_y] * weight.value[i_w];
    });
    return dx;
  }

  Parameter weight;

 private:
  // Of y: samples times channels.
  std::size_t maps() const { return x_.size() / (size_.in * size_.side * size_.side) * size_.out; }

  // y[i_y] is the sum of the products weight[i_w] * x[i_x].
  template <class Body>
  void for_each_product(Body&& body) const {
    const auto [in, out, side, kernel, stride, padding] = size_;
    const std::size_t y_side = size_.y_side(), y_area = y_side * y_side;
    for (std::size_t i_y = 0; i_y < maps() * y_area; ++i_y) {
      const std::size_t map = i_y / y_area, pixel = i_y % y_area;
      const std::size_t first_w = map % out * size_.fan_in(), first_x = map / out * in;
      for (std::size_t k = 0; k < kernel; ++k) {
        const std::size_t row = pixel / y_side * stride + k - padding;  // -1 is not < side either
        for (std::size_t l = 0; l < kernel && row < side; ++l) {
          const std::size_t column = pixel % y_side * stride + l - padding;
          for (std::size_t c = 0; c < in && column < side; ++c) {
            body(i_y, first_w + (c * kernel + k) * kernel + l,
                 ((first_x + c) * side + row) * side + column);
          }
        }
      }
    }
  }

  Size size_;
  Values x_;
};

// Normalized over the batch of all ranks, then ReLU. x is (n, channels, positions).
class BatchNorm {
 public:
  BatchNorm(const std::string& name, std::size_t channels, std::size_t positions,
            syncnorm::Communicator& comm)
      : weight(name + ".weight", channels, 1),
        bias(name + ".bias", channels, 0),
        running_mean(name + ".running_mean", channels, 0),
        running_var(name + ".running_var", channels, 1),
        comm_(comm) {
    shape_.c = static_cast<std::int64_t>(channels);
    shape_.s = static_cast<std::int64_t>(positions);
    shape_.dtype = SYNCNORM_FLOAT64;
    options_.activation = SYNCNORM_RELU;
  }

  // [doc: layer]
  Values forward(Values x, bool training) {
    x_ = std::move(x);
    shape_.n = static_cast<std::int64_t>(x_.size()) / (shape_.c * shape_.s);
    const syncnorm::Sizes sizes = syncnorm::query_sizes(shape_, options_);
    workspace_.reserve(sizes.workspace);
    saved_.resize(sizes.saved);
    Values y(x_.size());

    syncnorm::ForwardArgs args;
    args.x = {x_.data(), shape_};
    args.y = {y.data(), shape_};
    args.weight = weight.value.data();
    args.bias = bias.value.data();
    args.running_mean = running_mean.value.data();
    args.running_var = running_var.value.data();
    if (training) {
      args.saved = saved_;
      syncnorm::forward(options_, args, comm_, syncnorm::Launch::cpu(workspace_));
    } else {
      syncnorm::infer(options_, args, syncnorm::Launch::cpu(workspace_));
    }
    return y;
  }

  Values backward(Values dy) {
    syncnorm::BackwardArgs args;
    args.x = {x_.data(), shape_};
    args.dy = {dy.data(), shape_};
    args.weight = weight.value.data();
    args.bias = bias.value.data();
    args.saved = saved_;
    args.dx = {dy.data(), shape_};  // dx may take dy's place
    args.dweight = weight.gradient.data();
    args.dbias = bias.gradient.data();
    syncnorm::backward(options_, args, comm_, syncnorm::Launch::cpu(workspace_));
    return dy;
  }
  // [end]

  Parameter weight, bias;
  Parameter running_mean, running_var;  // of which there are no gradients

 private:
  syncnorm::Options options_;
  syncnorm::Shape shape_;
  syncnorm::Communicator& comm_;
  syncnorm::Workspace workspace_;
  Values x_, saved_;
};
