// The C functions of NCCL communicators, where no NCCL is called: refused arguments, and a build
// without CUDA.
#include <doctest/doctest.h>
#include <syncbn/syncbn.h>

#include <cstdint>
#include <string>

namespace {

std::string message() { return syncbn_last_error(); }

bool refused(syncbn_status status, const char* word) {
  CAPTURE(message());
  return status == SYNCBN_INVALID_ARGUMENT && message().find(word) != std::string::npos;
}

TEST_CASE("what is missing is named") {
  syncbn_comm* comm = nullptr;
  const std::uint8_t id[SYNCBN_NCCL_ID_SIZE] = {};
  CHECK(refused(syncbn_nccl_unique_id(nullptr), "id is NULL"));
  CHECK(refused(syncbn_comm_create_nccl(id, 0, 1, 0, nullptr, nullptr), "comm is NULL"));
  CHECK(refused(syncbn_comm_create_nccl_all(1, nullptr, nullptr, nullptr), "comms is NULL"));
  CHECK(refused(syncbn_comm_create_nccl_all(0, nullptr, nullptr, &comm), "n is 0"));
  CHECK(refused(syncbn_comm_borrow_nccl(&comm, nullptr, nullptr), "comm is NULL"));
  CHECK(refused(syncbn_comm_wait(nullptr, nullptr, 1.0), "comm is NULL"));
}

TEST_CASE("options that are no struct are refused") {
  syncbn_comm* comm = nullptr;
  syncbn_nccl_options options = SYNCBN_NCCL_OPTIONS_INIT;
  options.struct_size = 4;
  CHECK(refused(syncbn_comm_create_nccl(nullptr, 0, 1, 0, &options, &comm), "struct_size is 4"));
  CHECK(refused(syncbn_comm_create_nccl_all(1, nullptr, &options, &comm), "struct_size is 4"));
  CHECK(refused(syncbn_comm_borrow_nccl(&comm, &options, &comm), "struct_size is 4"));
  CHECK(comm == nullptr);
}

TEST_CASE("sums of host memory are done: there is nothing to wait for") {
  syncbn_comm* comms[2] = {};
  REQUIRE(syncbn_comm_create_threads(2, 60.0, comms) == SYNCBN_OK);
  CHECK(syncbn_comm_wait(comms[0], nullptr, 1.0) == SYNCBN_OK);
  CHECK(refused(syncbn_comm_wait(comms[0], nullptr, 0.0), "timeout_s is 0"));
  CHECK(refused(syncbn_comm_wait(comms[0], nullptr, -1.0), "timeout_s is -1"));
  for (syncbn_comm* comm : comms) syncbn_comm_destroy(comm);
}

TEST_CASE("a build without CUDA says so") {
  syncbn_capabilities capabilities = SYNCBN_CAPABILITIES_INIT;
  REQUIRE(syncbn_query_capabilities(&capabilities) == SYNCBN_OK);
  if (capabilities.cuda_built) return;
  const auto unsupported = [](syncbn_status status) {
    return status == SYNCBN_UNSUPPORTED && message().find("no CUDA backend") != std::string::npos;
  };
  syncbn_comm* comm = nullptr;
  std::uint8_t id[SYNCBN_NCCL_ID_SIZE] = {};
  CHECK(unsupported(syncbn_nccl_unique_id(id)));
  CHECK(unsupported(syncbn_comm_create_nccl(id, 0, 1, 0, nullptr, &comm)));
  CHECK(unsupported(syncbn_comm_create_nccl_all(1, nullptr, nullptr, &comm)));
  CHECK(unsupported(syncbn_comm_borrow_nccl(&comm, nullptr, &comm)));
  CHECK(comm == nullptr);
}

}  // namespace
