// The entry layer: the only place that catches, and where C structs become known to be whole.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

#include "support/error.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::api {

// Keeps `message` for syncnorm_last_error() of this thread; returns status.
syncnorm_status report(syncnorm_status status, const char* message) noexcept;

template <class Body>
syncnorm_status guarded(Body&& body) noexcept {
  try {
    std::forward<Body>(body)();
    return SYNCNORM_OK;
  } catch (const Error& error) {
    return report(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return report(SYNCNORM_OUT_OF_MEMORY, "host memory for this call could not be had");
  } catch (const std::exception& error) {
    return report(SYNCNORM_INTERNAL, error.what());
  } catch (...) {
    return report(SYNCNORM_INTERNAL, "an unknown exception reached the entry of the library");
  }
}

// More than a struct will ever have: beyond it struct_size is not one, and nothing is read.
inline constexpr std::size_t kMaxStructSize = 4096;

// The caller's struct as this library knows it. An older caller's is shorter: the rest is defaults.
// A newer caller's is longer: what it adds must be zero, for we do not know what it asks for.
// first_size is the struct's size in version 0.1, the shortest there is.
template <class Struct>
Struct read_struct(const char* name, const Struct* from, const Struct& defaults,
                   std::size_t first_size = sizeof(Struct)) {
  check(from != nullptr, name, " is NULL; expected a struct");
  const std::size_t size = from->struct_size;
  check(size >= first_size && size <= kMaxStructSize, name, "->struct_size is ", size,
        "; expected sizeof = ", sizeof(Struct),
        " (initialize the struct with its SYNCNORM_*_INIT macro)");
  Struct result = defaults;
  std::memcpy(&result, from, size < sizeof(Struct) ? size : sizeof(Struct));
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  for (std::size_t i = sizeof(Struct); i < size; ++i)
    if (bytes[i] != 0)
      fail(SYNCNORM_UNSUPPORTED, name, " sets members that this library (version ",
           syncnorm_version(), ") does not know; update the library");
  return result;
}

// Fills the caller's output struct, as far as the caller knows it.
template <class Struct>
void write_struct(const char* name, Struct* to, const Struct& value) {
  check(to != nullptr, name, " is NULL; expected room for a struct");
  const std::size_t size = to->struct_size;
  check(size >= sizeof(std::size_t) && size <= kMaxStructSize, name, "->struct_size is ", size,
        "; expected sizeof = ", sizeof(Struct), " (set it before the call)");
  std::memcpy(to, &value, size < sizeof(Struct) ? size : sizeof(Struct));
  to->struct_size = size;
}

}  // namespace syncnorm::api
