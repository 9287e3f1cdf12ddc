#include "comm/nccl_create.hpp"

#include <algorithm>
#include <utility>

#include "comm/nccl_connect.hpp"
#include "comm/nccl_cuda.hpp"
#include "comm/process_life.hpp"
#include "support/error.hpp"

namespace syncnorm::nccl {
namespace {

constexpr const char* kInit = "ncclCommInitRankConfig";
constexpr double kLongestEnd = 30.0;  // s: the last sums of the other ranks may be so late

Config make_config(const Settings& settings) {
  Config config;
  config.blocking = 0;
  config.max_ctas = settings.max_ctas;
  return config;
}

void require(const Api& api, Result result, const char* name) {
  if (result != kSuccess) fail(status_of(result), name, " failed: ", describe(api, result));
}

double timeout_of(const char* name, double value, double otherwise) {
  if (value == 0) return otherwise;
  check(value > 0 && value <= kLongestTimeout, "NCCL communicator: ", name, " is ", value,
        " s, expected more than 0 and at most ", kLongestTimeout, ", or 0 for the default");
  return value;
}

// What NCCL knows of a communicator that is ready.
Place place_of(Connection& connection, const Deadline& deadline) {
  const Api& api = connection.api();
  Place place{};
  connection.call("ncclCommUserRank", deadline,
                  [&](Comm comm) { return api.comm_user_rank(comm, &place.rank); });
  connection.call("ncclCommCount", deadline,
                  [&](Comm comm) { return api.comm_count(comm, &place.size); });
  connection.call("ncclCommCuDevice", deadline,
                  [&](Comm comm) { return api.comm_cu_device(comm, &place.device); });
  return place;
}

// Every rank of the group gets its call, and the group its end, whatever one of them gives. (NCCL's
// GroupEnd does not repeat the error of a call.)
Result init_group(const Api& api, const std::vector<ConnectionPtr>& ranks, const UniqueId& id,
                  const Settings& settings) {
  Config config = make_config(settings);
  Result first = api.group_start();
  if (first != kSuccess) return first;
  for (const ConnectionPtr& rank : ranks) {
    const Place& place = rank->place();
    const Result result =
        cudaSetDevice(place.device) == cudaSuccess
            ? api.comm_init_rank_config(rank->slot(), place.size, id, place.rank, &config)
            : kUnhandledCudaError;
    if (first == kSuccess && result != kInProgress) first = result;
  }
  const Result end = api.group_end();
  for (const ConnectionPtr& rank : ranks) rank->abort_if_failed();
  return first == kSuccess ? end : first;
}

}  // namespace

Settings read_settings(const syncnorm_nccl_options& options) {
  check(options.max_ctas >= 0, "NCCL communicator: max_ctas is ", options.max_ctas,
        ", expected the number of thread blocks that NCCL may use, or 0 for its own choice");
  const double sum = options.sum_timeout_s < 0
                         ? options.sum_timeout_s
                         : timeout_of("sum_timeout_s", options.sum_timeout_s, 600);
  return {timeout_of("init_timeout_s", options.init_timeout_s, 300), sum,
          sum < 0 ? kLongestEnd : std::min(sum, kLongestEnd),
          options.max_ctas > 0 ? options.max_ctas : Config::kUndefined};
}

UniqueId make_unique_id(const Api& api) {
  UniqueId id{};
  require(api, api.get_unique_id(&id), "ncclGetUniqueId");
  return id;
}

ConnectionPtr create(const Api& api, const UniqueId& id, const Place& place,
                     const Settings& settings) {
  const Deadline deadline(settings.init_timeout_s);
  auto connection = std::make_shared<Connection>(api, place, settings.end_timeout_s);
  connection->call_beside(kInit, deadline,
                          [connection, id, config = make_config(settings)](Comm) mutable {
                            const Place& self = connection->place();
                            const Result result = connection->api().comm_init_rank_config(
                                connection->slot(), self.size, id, self.rank, &config);
                            connection->abort_if_failed();
                            return result;
                          });
  connect({connection}, deadline);
  return connection;
}

std::vector<ConnectionPtr> create_all(const Api& api, const std::vector<int>& devices,
                                      const Settings& settings) {
  const Deadline deadline(settings.init_timeout_s);
  const UniqueId id = make_unique_id(api);
  std::vector<ConnectionPtr> ranks;
  for (const int device : devices) {
    ranks.push_back(std::make_shared<Connection>(
        api, Place{static_cast<int>(ranks.size()), static_cast<int>(devices.size()), device},
        settings.end_timeout_s));
  }
  try {
    ranks[0]->call_beside(kInit, deadline, [&api, ranks, id, settings](Comm) {
      return init_group(api, ranks, id, settings);
    });
    for (const ConnectionPtr& rank : ranks) rank->settle(kInit, deadline, kInProgress);
    connect(ranks, deadline);
  } catch (const Error& error) {
    for (const ConnectionPtr& rank : ranks) rank->fail(error.status(), error.what());
    throw;
  }
  return ranks;
}

ConnectionPtr borrow(const Api& api, Comm comm, const Settings& settings) {
  const Deadline deadline(settings.init_timeout_s);
  auto connection = std::make_shared<Connection>(api, comm);
  connection->settle("the initialization of the borrowed ncclComm_t", deadline, kInProgress);
  connection->set_place(place_of(*connection, deadline));
  return connection;
}

ConnectionPtr split(Connection& parent, int color, int key, const Settings& settings) {
  const Deadline deadline(settings.init_timeout_s);
  auto child = std::make_shared<Connection>(parent.api(), parent.place(), settings.end_timeout_s);
  try {
    parent.call_beside("ncclCommSplit", deadline,
                       [child, color, key, config = make_config(settings)](Comm comm) mutable {
                         const Result result = child->api().comm_split(
                             comm, color < 0 ? kNoColor : color, key, child->slot(), &config);
                         child->abort_if_failed();
                         return result;
                       });
    if (color < 0) return nullptr;
    child->settle("ncclCommSplit", deadline, kInProgress);
    child->set_place(place_of(*child, deadline));
    connect({child}, deadline);
  } catch (const Error& error) {
    child->fail(error.status(), error.what());
    throw;
  }
  return child;
}

}  // namespace syncnorm::nccl
