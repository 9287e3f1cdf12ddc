#include "comm/nccl_api.hpp"

#include <dlfcn.h>

#include "support/error.hpp"

namespace syncnorm::nccl {
namespace {

constexpr const char* kRemedy =
    "Install NCCL 2.18 or newer (pip install nvidia-nccl-cu13, or nvidia-nccl-cu12 for CUDA 12), "
    "or set SYNCNORM_NCCL_LIBRARY to the path of libnccl.so.2";

// Finds functions by name and remembers which are missing.
class Loader {
 public:
  explicit Loader(void* handle) : handle_(handle) {}

  template <class Function>
  void load(Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (function == nullptr) missing_ += concat(missing_.empty() ? "" : ", ", name);
  }

  const std::string& missing() const noexcept { return missing_; }

 private:
  void* handle_;
  std::string missing_;
};

}  // namespace

Api load_api(const NcclLibrary& library) {
  const std::string found =
      concat("NCCL ", nccl_version_text(library.version), " was found at ", library.path);
  if (library.version < kOldestVersion) {
    fail(SYNCNORM_UNSUPPORTED, found, ", expected 2.18 or newer. ", kRemedy);
  }
  Api api{};
  Loader loader(library.handle);
  loader.load(api.get_unique_id, "ncclGetUniqueId");
  loader.load(api.comm_init_rank_config, "ncclCommInitRankConfig");
  loader.load(api.comm_split, "ncclCommSplit");
  loader.load(api.comm_finalize, "ncclCommFinalize");
  loader.load(api.comm_destroy, "ncclCommDestroy");
  loader.load(api.comm_abort, "ncclCommAbort");
  loader.load(api.comm_get_async_error, "ncclCommGetAsyncError");
  loader.load(api.comm_count, "ncclCommCount");
  loader.load(api.comm_user_rank, "ncclCommUserRank");
  loader.load(api.comm_cu_device, "ncclCommCuDevice");
  loader.load(api.all_reduce, "ncclAllReduce");
  loader.load(api.group_start, "ncclGroupStart");
  loader.load(api.group_end, "ncclGroupEnd");
  loader.load(api.get_error_string, "ncclGetErrorString");
  loader.load(api.get_last_error, "ncclGetLastError");
  if (!loader.missing().empty()) {
    fail(SYNCNORM_UNSUPPORTED, found, ", but it lacks ", loader.missing(), ". ", kRemedy);
  }
  return api;
}

const Api& api() {
  static const Api loaded = [] {
    const NcclLibrary* library = find_nccl();
    if (library == nullptr) {
      fail(SYNCNORM_UNSUPPORTED, "NCCL was not found: ", why_no_nccl(), ". ", kRemedy);
    }
    return load_api(*library);
  }();
  return loaded;
}

std::string describe(const Api& api, Result result) {
  std::string text = concat(api.get_error_string(result), " (", static_cast<int>(result), ")");
  const char* detail = api.get_last_error(nullptr);
  if (detail != nullptr && *detail != '\0') text += concat("; NCCL says: ", detail);
  return text;
}

syncnorm_status status_of(Result result) noexcept {
  return result == kTimeout ? SYNCNORM_TIMEOUT : SYNCNORM_NCCL_ERROR;
}

}  // namespace syncnorm::nccl
