#include "capabilities.hpp"

#include <dlfcn.h>

#include <string_view>

#include "docstrings.hpp"
#include "errors.hpp"

namespace syncnorm::bindings {
namespace {

// Path of the loaded core library, or None.
nb::object library_path() {
  Dl_info found{};
  const void* symbol = reinterpret_cast<const void*>(&syncnorm_version);
  if (dladdr(symbol, &found) == 0 || found.dli_fname == nullptr) return nb::none();
  return nb::str(found.dli_fname);
}

nb::object text_or_none(const char* text) {
  if (std::string_view(text).empty()) return nb::none();
  return nb::str(text);
}

nb::dict capabilities() {
  syncnorm_capabilities values = SYNCNORM_CAPABILITIES_INIT;
  run([&] { return syncnorm_query_capabilities(&values); });
  nb::dict result;
  result["version"] = syncnorm_version();
  result["library"] = library_path();
  result["cpu_isa"] = values.cpu_isa;
  result["cuda_built"] = values.cuda_built != 0;
  result["cuda_devices"] = values.cuda_devices;
  result["cuda_problem"] = text_or_none(values.cuda_problem);
  result["nccl"] = text_or_none(values.nccl);
  return result;
}

}  // namespace

void bind_capabilities(nb::module_& module) {
  module.def("capabilities", &capabilities, nb::sig("def capabilities() -> dict[str, typing.Any]"),
             doc::kCapabilities);
  module.def("version", [] { return syncnorm_version(); }, doc::kVersion);
}

}  // namespace syncnorm::bindings
