#include <cstdio>

#include "api/guard.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::api {
namespace {

// A fixed buffer: reporting "out of memory" must not allocate.
thread_local char last_message[1024] = "";

}  // namespace

syncnorm_status report(syncnorm_status status, const char* message) noexcept {
  std::snprintf(last_message, sizeof(last_message), "%s", message);
  return status;
}

}  // namespace syncnorm::api

extern "C" const char* syncnorm_last_error(void) { return syncnorm::api::last_message; }

extern "C" const char* syncnorm_status_name(syncnorm_status status) {
  switch (status) {
    case SYNCNORM_OK: return "ok";
    case SYNCNORM_INVALID_ARGUMENT: return "invalid argument";
    case SYNCNORM_UNSUPPORTED: return "unsupported";
    case SYNCNORM_CUDA_ERROR: return "cuda error";
    case SYNCNORM_NCCL_ERROR: return "nccl error";
    case SYNCNORM_DESYNC: return "desync";
    case SYNCNORM_TIMEOUT: return "timeout";
    case SYNCNORM_OUT_OF_MEMORY: return "out of memory";
    case SYNCNORM_INTERNAL: return "internal error";
    case SYNCNORM_RANK_LOST: return "rank lost";
  }
  return "unknown status";
}
