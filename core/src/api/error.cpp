#include <cstdio>

#include "api/guard.hpp"
#include "syncbn/syncbn.h"

namespace syncbn::api {
namespace {

// A fixed buffer: reporting "out of memory" must not allocate.
thread_local char last_message[1024] = "";

}  // namespace

syncbn_status report(syncbn_status status, const char* message) noexcept {
  std::snprintf(last_message, sizeof(last_message), "%s", message);
  return status;
}

}  // namespace syncbn::api

extern "C" const char* syncbn_last_error(void) { return syncbn::api::last_message; }

extern "C" const char* syncbn_status_name(syncbn_status status) {
  switch (status) {
    case SYNCBN_OK: return "ok";
    case SYNCBN_INVALID_ARGUMENT: return "invalid argument";
    case SYNCBN_UNSUPPORTED: return "unsupported";
    case SYNCBN_CUDA_ERROR: return "cuda error";
    case SYNCBN_NCCL_ERROR: return "nccl error";
    case SYNCBN_DESYNC: return "desync";
    case SYNCBN_TIMEOUT: return "timeout";
    case SYNCBN_OUT_OF_MEMORY: return "out of memory";
    case SYNCBN_INTERNAL: return "internal error";
  }
  return "unknown status";
}
