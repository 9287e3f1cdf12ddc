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

}  // namespace

extern "C" syncnorm_status syncnorm_query_capabilities(syncnorm_capabilities* capabilities) {
  return guarded([&] {
    write_struct("capabilities", capabilities,
                 syncnorm_capabilities{
                     sizeof(syncnorm_capabilities), syncnorm::cpu::instruction_set(),
                     syncnorm::cuda_built() ? 1 : 0, syncnorm::cuda_device_count(), nccl_text()});
  });
}
