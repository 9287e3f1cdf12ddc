#include <string>

#include "api/call.hpp"
#include "backend/backend.hpp"
#include "backend/cpu/dispatch.hpp"
#include "comm/nccl_library.hpp"
#include "math/wire.hpp"
#include "ops/workspace.hpp"

using namespace syncbn::api;

#define SYNCBN_STRINGIFY(x) #x
#define SYNCBN_VERSION_STRING(major, minor, patch) \
  SYNCBN_STRINGIFY(major) "." SYNCBN_STRINGIFY(minor) "." SYNCBN_STRINGIFY(patch)

extern "C" const char* syncbn_version(void) {
  return SYNCBN_VERSION_STRING(SYNCBN_VERSION_MAJOR, SYNCBN_VERSION_MINOR, SYNCBN_VERSION_PATCH);
}

extern "C" syncbn_status syncbn_query_sizes(const syncbn_shape* shape,
                                            const syncbn_options* options, syncbn_device device,
                                            syncbn_sizes* sizes) {
  return guarded([&] {
    const syncbn::Problem problem = read_problem(shape, options);
    write_struct("sizes", sizes,
                 syncbn_sizes{sizeof(syncbn_sizes), syncbn::ForwardWire::length(problem.c),
                              problem.center_wire_length(), syncbn::BackwardWire::length(problem.c),
                              syncbn::Saved::length(problem.c),
                              syncbn::workspace_size(problem, syncbn::backend_for(device))});
  });
}

namespace {

// "version (path)", or "". Once found it is the same for the life of the process.
const char* nccl_text() {
  const syncbn::NcclLibrary* library = syncbn::find_nccl();
  if (library == nullptr) return "";
  static const std::string text =
      syncbn::concat(syncbn::nccl_version_text(library->version), " (", library->path, ")");
  return text.c_str();
}

}  // namespace

extern "C" syncbn_status syncbn_query_capabilities(syncbn_capabilities* capabilities) {
  return guarded([&] {
    write_struct("capabilities", capabilities,
                 syncbn_capabilities{sizeof(syncbn_capabilities), syncbn::cpu::instruction_set(),
                                     syncbn::cuda_built() ? 1 : 0, syncbn::cuda_device_count(),
                                     nccl_text()});
  });
}
