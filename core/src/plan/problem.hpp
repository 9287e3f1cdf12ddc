// A call that has been checked: what is normalized, how, and what follows from it.
#pragma once

#include <cstdint>

#include "math/wire.hpp"
#include "syncbn/syncbn.h"

namespace syncbn {

struct Problem {
  std::int64_t n;
  std::int64_t c;
  std::int64_t s;
  syncbn_dtype dtype;
  syncbn_layout layout;
  syncbn_options options;

  std::int64_t values_per_channel() const { return n * s; }
  std::int64_t size() const { return n * c * s; }
  bool in_place() const { return options.in_place != 0; }
  bool centered() const {
    return options.centering == SYNCBN_CENTER_ON ||
           (options.centering == SYNCBN_CENTER_AUTO && dtype == SYNCBN_FLOAT64);
  }
  std::int64_t center_wire_length() const { return centered() ? CenterWire::length(c) : 0; }
};

}  // namespace syncbn
