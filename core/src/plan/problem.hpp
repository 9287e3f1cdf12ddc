// A call that has been checked: what is normalized, how, and what follows from it.
#pragma once

#include <cstdint>

#include "math/wire.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

struct Problem {
  std::int64_t n;
  std::int64_t c;
  std::int64_t s;
  syncnorm_dtype dtype;
  syncnorm_layout layout;
  syncnorm_options options;

  std::int64_t values_per_channel() const { return n * s; }
  std::int64_t size() const { return n * c * s; }
  bool in_place() const { return options.in_place != 0; }
  bool centered() const {
    return options.centering == SYNCNORM_CENTER_ON ||
           (options.centering == SYNCNORM_CENTER_AUTO && dtype == SYNCNORM_FLOAT64);
  }
  std::int64_t center_wire_length() const { return centered() ? CenterWire::length(c) : 0; }
};

}  // namespace syncnorm
