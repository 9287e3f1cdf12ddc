// Part of syncbn.hpp: the library that is loaded.
#ifndef SYNCBN_LIBRARY_HPP_
#define SYNCBN_LIBRARY_HPP_

#include <string>

#include "errors.hpp"

namespace syncbn {
inline namespace SYNCBN_INLINE_NAMESPACE {

// "major.minor.patch".
inline const char* version() noexcept { return syncbn_version(); }

// Refuses a library of another minor version than these headers, for programs that find it at run
// time by themselves: see docs/abi.md.
inline void check_version(OnError on_error = {}) {
  const std::string expected =
      std::to_string(SYNCBN_VERSION_MAJOR) + "." + std::to_string(SYNCBN_VERSION_MINOR) + ".";
  const std::string loaded = version();
  if (loaded.compare(0, expected.size(), expected) == 0) return;
  on_error.fail(SYNCBN_UNSUPPORTED, "libsyncbn is version " + loaded +
                                        ", this program was compiled for " + expected +
                                        "x: install that, or compile anew");
}

// A short constant name, such as "invalid argument".
inline const char* name_of(syncbn_status status) noexcept { return syncbn_status_name(status); }

// What was built and what was found: see syncbn_capabilities.
inline syncbn_capabilities query_capabilities(OnError on_error = {}) {
  syncbn_capabilities capabilities = SYNCBN_CAPABILITIES_INIT;
  on_error.check(syncbn_query_capabilities(&capabilities));
  return capabilities;
}

}  // namespace SYNCBN_INLINE_NAMESPACE
}  // namespace syncbn

#endif  // SYNCBN_LIBRARY_HPP_
