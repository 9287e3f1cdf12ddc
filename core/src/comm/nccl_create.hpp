// How connections come to be: each of these is a collective over the ranks of the new group, except
// borrow(). What is not borrowed is connected: its first all-reduce has been made.
#pragma once

#include <memory>
#include <vector>

#include "comm/nccl_connection.hpp"

namespace syncnorm::nccl {

struct Settings {
  double init_timeout_s;
  double sum_timeout_s;  // < 0: no watchdog
  double end_timeout_s;  // for each step of the end of a communicator
  int max_ctas;          // Config::kUndefined: NCCL's choice
};

// Fills in the defaults. Throws where a member makes no sense.
Settings read_settings(const syncnorm_nccl_options& options);

using ConnectionPtr = std::shared_ptr<Connection>;

UniqueId make_unique_id(const Api& api);

ConnectionPtr create(const Api& api, const UniqueId& id, const Place& place,
                     const Settings& settings);
// One process drives all ranks: element i is on devices[i].
std::vector<ConnectionPtr> create_all(const Api& api, const std::vector<int>& devices,
                                      const Settings& settings);
ConnectionPtr borrow(const Api& api, Comm comm, const Settings& settings);
// nullptr where color < 0.
ConnectionPtr split(Connection& parent, int color, int key, const Settings& settings);

}  // namespace syncnorm::nccl
