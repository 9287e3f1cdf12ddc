// What the sanitizers must be told, and nothing where there are none.
#pragma once

#include <cstddef>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define SIMT_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define SIMT_TSAN 1
#endif

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SIMT_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

#ifdef SIMT_TSAN
#define SIMT_NOT_OBSERVED __attribute__((no_sanitize("thread")))
#else
#define SIMT_NOT_OBSERVED
#endif

namespace simt {

#ifdef SIMT_TSAN
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

// A token carries what happened before its releases to whoever acquires it.
inline void release([[maybe_unused]] void* token) {
#ifdef SIMT_TSAN
  __tsan_release(token);
#endif
}
inline void acquire([[maybe_unused]] void* token) {
#ifdef SIMT_TSAN
  __tsan_acquire(token);
#endif
}

// The harness's own reads and writes are none of the kernel's: ThreadSanitizer overlooks them. Also
// memory that is allocated meanwhile is taken as never used before, rather than as written now.
class Overlooked {
 public:
#ifdef SIMT_TSAN
  Overlooked() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Overlooked() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Overlooked() {}  // not defaulted: an unused variable of a trivial type draws a warning
  ~Overlooked() {}
#endif
  Overlooked(const Overlooked&) = delete;
  Overlooked& operator=(const Overlooked&) = delete;
};

}  // namespace simt
