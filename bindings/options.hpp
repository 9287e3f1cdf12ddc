// The Python class `Options`.
#pragma once

#include <nanobind/nanobind.h>

#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

namespace nb = nanobind;

class Options {
 public:
  explicit Options(const syncnorm_options& values) : values_(values) {}

  syncnorm_options with_tag(std::uint64_t tag) const noexcept {
    syncnorm_options tagged = values_;
    tagged.tag = tag;
    return tagged;
  }
  const syncnorm_options& values() const noexcept { return values_; }
  // Keyword arguments of the constructor, and their values.
  nb::dict keywords() const;

 private:
  syncnorm_options values_;
};

void bind_options(nb::module_& module);

}  // namespace syncnorm::bindings
