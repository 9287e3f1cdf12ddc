#include <mutex>
#include <set>
#include <string>

#include "api/call.hpp"
#include "backend/backend.hpp"
#include "backend/cpu/dispatch.hpp"
#include "comm/nccl_library.hpp"
#include "math/wire.hpp"
#include "ops/workspace.hpp"

using namespace syncnorm::api;

#define SYNCNORM_STRINGIFY(x) #x
#define SYNCNORM_VERSION_STRING(major, minor, patch) \
  SYNCNORM_STRINGIFY(major) "." SYNCNORM_STRINGIFY(minor) "." SYNCNORM_STRINGIFY(patch)

extern "C" const char* syncnorm_version(void) {
  return SYNCNORM_VERSION_STRING(SYNCNORM_VERSION_MAJOR, SYNCNORM_VERSION_MINOR,
                                 SYNCNORM_VERSION_PATCH);
}

extern "C" syncnorm_status syncnorm_query_sizes(const syncnorm_shape* shape,
                                                const syncnorm_options* options,
                                                syncnorm_device device, syncnorm_sizes* sizes) {
  return guarded([&] {
    const syncnorm::Problem problem = read_problem(shape, options);
    write_struct(
        "sizes", sizes,
        syncnorm_sizes{sizeof(syncnorm_sizes), syncnorm::ForwardWire::length(problem.c),
                       problem.center_wire_length(), syncnorm::BackwardWire::length(problem.c),
                       syncnorm::Saved::length(problem.c),
                       syncnorm::workspace_size(problem, syncnorm::backend_for(device))});
  });
}

namespace {

// "version (path)", or "". Once found it is the same for the life of the process.
const char* nccl_text() {
  const syncnorm::NcclLibrary* library = syncnorm::find_nccl();
  if (library == nullptr) return "";
  static const std::string text =
      syncnorm::concat(syncnorm::nccl_version_text(library->version), " (", library->path, ")");
  return text.c_str();
}

// A copy that stays valid for the life of the process. There are few different texts.
const char* kept(const std::string& text) {
  static std::mutex mutex;
  static auto& texts = *new std::set<std::string>;
  const std::lock_guard lock(mutex);
  return texts.insert(text).first->c_str();
}

}  // namespace

extern "C" syncnorm_status syncnorm_query_capabilities(syncnorm_capabilities* capabilities) {
  return guarded([&] {
    const syncnorm::CudaDevices devices = syncnorm::cuda_devices();
    write_struct(
        "capabilities", capabilities,
        syncnorm_capabilities{sizeof(syncnorm_capabilities), syncnorm::cpu::instruction_set(),
                              syncnorm::cuda_built() ? 1 : 0, devices.count, nccl_text(),
                              kept(devices.problem)});
  });
}
