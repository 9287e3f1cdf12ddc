// The Python class `Options`.
#pragma once

#include <nanobind/nanobind.h>

#include "syncbn/syncbn.h"

namespace syncbn::bindings {

namespace nb = nanobind;

class Options {
 public:
  explicit Options(const syncbn_options& values) : values_(values) {}

  syncbn_options with_tag(std::uint64_t tag) const noexcept {
    syncbn_options tagged = values_;
    tagged.tag = tag;
    return tagged;
  }
  const syncbn_options& values() const noexcept { return values_; }
  // The constructor's keywords and their values.
  nb::dict keywords() const;

 private:
  syncbn_options values_;
};

void bind_options(nb::module_& module);

}  // namespace syncbn::bindings
