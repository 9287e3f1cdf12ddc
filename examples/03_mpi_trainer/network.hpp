// Convolution, batch norm and ReLU; the same again; linear; cross entropy.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "digits.hpp"
#include "layers.hpp"

class Network {
 public:
  Network(Random& random, syncnorm::Communicator& comm)
      : conv1_("conv1", {1, 8, kSide, 3, 1, 1}, random),
        norm1_("norm1", 8, kPixels, comm),
        conv2_("conv2", {8, 16, kSide, 3, 2, 1}, random),
        norm2_("norm2", 16, kPixels / 4, comm),
        linear_("linear", {16, kClasses, kSide / 2, kSide / 2, 1, 0}, random) {}

  // The logits of images, (n, kClasses).
  Values forward(Values images, bool training) {
    Values x = norm1_.forward(conv1_.forward(std::move(images)), training);
    x = norm2_.forward(conv2_.forward(std::move(x)), training);
    return linear_.forward(std::move(x));
  }

  void backward(const Values& dlogits) {
    const Values dx = norm2_.backward(linear_.backward(dlogits));
    conv1_.backward(norm1_.backward(conv2_.backward(dx)));
  }

  std::vector<Parameter*> parameters() {
    return {&conv1_.weight, &norm1_.weight, &norm1_.bias,   &conv2_.weight,
            &norm2_.weight, &norm2_.bias,   &linear_.weight};
  }
  std::vector<Parameter*> running_statistics() {
    return {&norm1_.running_mean, &norm1_.running_var, &norm2_.running_mean, &norm2_.running_var};
  }

 private:
  Convolution conv1_;
  BatchNorm norm1_;
  Convolution conv2_;
  BatchNorm norm2_;
  Convolution linear_;
};

// This rank's part of the mean over a batch of batch_size samples on all ranks. The logits become
// its gradient.
inline double cross_entropy(Values& logits, const std::vector<std::size_t>& labels,
                            std::size_t batch_size) {
  const double share = 1 / static_cast<double>(batch_size);
  double loss = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    double* const row = &logits[i * kClasses];
    const double largest = *std::max_element(row, row + kClasses);
    double sum = 0;
    for (std::size_t k = 0; k < kClasses; ++k) sum += std::exp(row[k] - largest);
    const double log_sum = largest + std::log(sum);
    loss += share * (log_sum - row[labels[i]]);
    for (std::size_t k = 0; k < kClasses; ++k) {
      row[k] = share * (std::exp(row[k] - log_sum) - (k == labels[i] ? 1 : 0));
    }
  }
  return loss;
}
