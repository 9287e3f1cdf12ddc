#include "nccl.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "communicator.hpp"
#include "docstrings_communicator.hpp"
#include "errors.hpp"

namespace syncnorm::bindings {
namespace {

// In the C interface 0 means the default and a negative number disables the watchdog. An invalid
// number must not select either.
void require_positive(const char* name, double seconds, const char* alternative = "") {
  if (!(seconds > 0)) fail_argument(name, ": got ", seconds, ", expected seconds > 0", alternative);
}

syncnorm_nccl_options nccl_options(double init_timeout, std::optional<double> sum_timeout,
                                   std::optional<std::int32_t> max_ctas) {
  require_positive("init_timeout", init_timeout);
  if (sum_timeout) require_positive("sum_timeout", *sum_timeout, ", or None for no watchdog");
  if (max_ctas && *max_ctas < 1)
    fail_argument("max_ctas: got ", *max_ctas, ", expected >= 1, or None for NCCL's choice");
  syncnorm_nccl_options options = SYNCNORM_NCCL_OPTIONS_INIT;
  options.init_timeout_s = init_timeout;
  options.sum_timeout_s = sum_timeout.value_or(-1.0);
  options.max_ctas = max_ctas.value_or(0);
  return options;
}

nb::bytes nccl_unique_id() {
  std::uint8_t id[SYNCNORM_NCCL_ID_SIZE];
  run([&] { return syncnorm_nccl_unique_id(id); });
  return nb::bytes(id, sizeof(id));
}

const std::uint8_t* id_of(const std::optional<nb::bytes>& id) {
  if (!id) return nullptr;
  if (id->size() != SYNCNORM_NCCL_ID_SIZE)
    fail_argument("id: got ", id->size(), " bytes, expected ", SYNCNORM_NCCL_ID_SIZE,
                  ": pass the bytes that nccl_unique_id() returned on one rank");
  return static_cast<const std::uint8_t*>(id->data());
}

Communicator nccl_communicator(const std::optional<nb::bytes>& id, std::int32_t rank,
                               std::int32_t size, std::int32_t device, double init_timeout,
                               std::optional<double> sum_timeout,
                               std::optional<std::int32_t> max_ctas) {
  const syncnorm_nccl_options options = nccl_options(init_timeout, sum_timeout, max_ctas);
  const std::uint8_t* bytes = id_of(id);
  syncnorm_comm* comm = nullptr;
  run([&] { return syncnorm_comm_create_nccl(bytes, rank, size, device, &options, &comm); });
  return adopt(comm);
}

std::vector<Communicator> nccl_group(const std::vector<std::int32_t>& devices, double init_timeout,
                                     std::optional<double> sum_timeout,
                                     std::optional<std::int32_t> max_ctas) {
  const syncnorm_nccl_options options = nccl_options(init_timeout, sum_timeout, max_ctas);
  if (devices.empty())
    fail_argument("devices: got an empty sequence, expected one device per rank");
  const auto size = static_cast<std::int32_t>(devices.size());
  std::vector<syncnorm_comm*> comms(devices.size(), nullptr);
  run([&] { return syncnorm_comm_create_nccl_all(size, devices.data(), &options, comms.data()); });
  return adopt(comms);
}

// nb::keep_alive below keeps the owner alive.
Communicator borrow_nccl(std::uintptr_t pointer, nb::handle /*owner*/, double init_timeout,
                         std::optional<double> sum_timeout, std::optional<std::int32_t> max_ctas) {
  const syncnorm_nccl_options options = nccl_options(init_timeout, sum_timeout, max_ctas);
  syncnorm_comm* comm = nullptr;
  run([&] { return syncnorm_comm_borrow_nccl(reinterpret_cast<void*>(pointer), &options, &comm); });
  return adopt(comm);
}

}  // namespace

void bind_nccl(nb::module_& module) {
  using nb::arg;
  const nb::kw_only keywords;
  const auto init_timeout = [] { return arg("init_timeout") = 300.0; };
  const auto sum_timeout = [] { return arg("sum_timeout").none() = 600.0; };
  const auto max_ctas = [] { return arg("max_ctas").none() = nb::none(); };
  module.def("nccl_unique_id", &nccl_unique_id, doc::kNcclUniqueId);
  module.def("nccl_communicator", &nccl_communicator, arg("id").none(), arg("rank"), arg("size"),
             arg("device"), keywords, init_timeout(), sum_timeout(), max_ctas(),
             doc::kNcclCommunicator);
  module.def("nccl_group", &nccl_group, arg("devices"), keywords, init_timeout(), sum_timeout(),
             max_ctas(), doc::kNcclGroup);
  module.def("borrow_nccl", &borrow_nccl, arg("pointer"), arg("owner").none() = nb::none(),
             keywords, init_timeout(), sum_timeout(), max_ctas(), nb::keep_alive<0, 2>(),
             doc::kBorrowNccl);
}

}  // namespace syncnorm::bindings
