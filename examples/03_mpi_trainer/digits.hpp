// Handwritten digits: 8x8 pixels and a label each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

constexpr std::size_t kSide = 8, kPixels = kSide * kSide, kClasses = 10;

struct Digits {
  std::size_t size() const { return labels.size(); }

  std::vector<double> images;  // [size][kPixels], from 0 to 1
  std::vector<std::size_t> labels;
};

// A line for each: its pixels, from 0 to 16, and its label, with commas between.
inline Digits read_digits(const std::string& path) {
  std::ifstream file(path);
  Digits digits;
  for (std::string line; std::getline(file, line);) {
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream values(line);
    for (std::size_t i = 0; i < kPixels; ++i) {
      double pixel = 0;
      values >> pixel;
      digits.images.push_back(pixel / 16);
    }
    std::size_t label = 0;
    values >> label;
    digits.labels.push_back(label);
    if (!values || label >= kClasses) {
      throw std::runtime_error(path + ", line " + std::to_string(digits.size()) +
                               ": expected 64 pixels and a label from 0 to 9");
    }
  }
  return digits;
}
