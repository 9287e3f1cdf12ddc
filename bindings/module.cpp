// The module syncnorm._core: the C interface as Python functions. It converts arguments; validation
// and computation are behind the C interface.
#include <cstdlib>

#include "arguments.hpp"
#include "array_view.hpp"
#include "capabilities.hpp"
#include "communicator.hpp"
#include "docstrings.hpp"
#include "errors.hpp"
#include "gil.hpp"
#include "nccl.hpp"
#include "one_call.hpp"
#include "options.hpp"
#include "phases.hpp"
#include "xla_ffi.hpp"

NB_MODULE(_core, module) {
  using namespace syncnorm::bindings;
  module.doc() = doc::kModule;
  // Frameworks keep registered objects, such as operators, until the process ends. Only our tests
  // enable the warnings.
  nb::set_leak_warnings(std::getenv("SYNCNORM_LEAK_WARNINGS") != nullptr);
  find_main_thread();
  bind_errors(module);
  bind_array(module);
  bind_options(module);
  bind_sizes(module);
  bind_communicator(module);
  bind_nccl(module);
  bind_phases(module);
  bind_one_call(module);
  bind_xla_ffi(module);
  bind_capabilities(module);
}
