// Part of syncnorm.hpp: the library that is loaded.
#ifndef SYNCNORM_LIBRARY_HPP_
#define SYNCNORM_LIBRARY_HPP_

#include <string>

#include "errors.hpp"

namespace syncnorm {
inline namespace SYNCNORM_INLINE_NAMESPACE {

// "major.minor.patch".
inline const char* version() noexcept { return syncnorm_version(); }

// Refuses a library of another minor version than these headers, for programs that find it at run
// time by themselves: see docs/abi.md.
inline void check_version(OnError on_error = {}) {
  const std::string expected =
      std::to_string(SYNCNORM_VERSION_MAJOR) + "." + std::to_string(SYNCNORM_VERSION_MINOR) + ".";
  const std::string loaded = version();
  if (loaded.compare(0, expected.size(), expected) == 0) return;
  on_error.fail(SYNCNORM_UNSUPPORTED, "libsyncnorm is version " + loaded +
                                          ", this program was compiled for " + expected +
                                          "x: install that, or compile anew");
}

// A short constant name, such as "invalid argument".
inline const char* name_of(syncnorm_status status) noexcept { return syncnorm_status_name(status); }

// What was built and what was found: see syncnorm_capabilities.
inline syncnorm_capabilities query_capabilities(OnError on_error = {}) {
  syncnorm_capabilities capabilities = SYNCNORM_CAPABILITIES_INIT;
  on_error.check(syncnorm_query_capabilities(&capabilities));
  return capabilities;
}

}  // namespace SYNCNORM_INLINE_NAMESPACE
}  // namespace syncnorm

#endif  // SYNCNORM_LIBRARY_HPP_
