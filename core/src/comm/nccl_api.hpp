// What is used of NCCL: its types and functions, declared here so that building needs no nccl.h.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>
#include <string>

#include "comm/nccl_library.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::nccl {

enum Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
  kTimeout = 8,  // since 2.30
};

using Comm = struct ncclComm*;
using Stream = void*;  // a cudaStream_t

struct UniqueId {
  char internal[SYNCNORM_NCCL_ID_SIZE];
};

// ncclConfig_t of NCCL 2.18: newer libraries read as much as `size` says and fill in the rest.
struct Config {
  static constexpr int kUndefined = INT_MIN;
  std::size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21800;
  int blocking = kUndefined;
  int cga_cluster_size = kUndefined;
  int min_ctas = kUndefined;
  int max_ctas = kUndefined;
  const char* net_name = nullptr;
  int split_share = kUndefined;
};
static_assert(sizeof(Config) == 48 && offsetof(Config, split_share) == 40);

inline constexpr int kOldestVersion = 21800;  // the first with ncclCommSplit
inline constexpr int kFloat64 = 8;            // ncclDataType_t
inline constexpr int kSum = 0;                // ncclRedOp_t
inline constexpr int kNoColor = -1;

// One pointer for each function; none is null.
struct Api {
  Result (*get_unique_id)(UniqueId* id);
  Result (*comm_init_rank_config)(Comm* comm, int size, UniqueId id, int rank, Config* config);
  Result (*comm_split)(Comm comm, int color, int key, Comm* child, Config* config);
  Result (*comm_finalize)(Comm comm);
  Result (*comm_destroy)(Comm comm);
  Result (*comm_abort)(Comm comm);
  Result (*comm_get_async_error)(Comm comm, Result* error);
  Result (*comm_count)(Comm comm, int* size);
  Result (*comm_user_rank)(Comm comm, int* rank);
  Result (*comm_cu_device)(Comm comm, int* device);
  Result (*all_reduce)(const void* src, void* dst, std::size_t count, int type, int op, Comm comm,
                       Stream stream);
  Result (*group_start)();
  Result (*group_end)();
  const char* (*get_error_string)(Result result);
  const char* (*get_last_error)(Comm comm);
};

// Throws SYNCNORM_UNSUPPORTED where the library is too old or lacks a function.
Api load_api(const NcclLibrary& library);

// Of the library that find_nccl() finds, for the life of the process. Throws SYNCNORM_UNSUPPORTED,
// saying what to install.
const Api& api();

// "remote process exited or there was a network error (6)", and what NCCL last complained about.
std::string describe(const Api& api, Result result);

syncnorm_status status_of(Result result) noexcept;

}  // namespace syncnorm::nccl
