// The C functions of NCCL communicators, where no NCCL is called: refused arguments, and a build
// without CUDA.
#include <doctest/doctest.h>
#include <syncnorm/syncnorm.h>

#include <cstdint>
#include <string>

namespace {

std::string message() { return syncnorm_last_error(); }

bool refused(syncnorm_status status, const char* word) {
  CAPTURE(message());
  return status == SYNCNORM_INVALID_ARGUMENT && message().find(word) != std::string::npos;
}

TEST_CASE("what is missing is named") {
  syncnorm_comm* comm = nullptr;
  const std::uint8_t id[SYNCNORM_NCCL_ID_SIZE] = {};
  CHECK(refused(syncnorm_nccl_unique_id(nullptr), "id is NULL"));
  CHECK(refused(syncnorm_comm_create_nccl(id, 0, 1, 0, nullptr, nullptr), "comm is NULL"));
  CHECK(refused(syncnorm_comm_create_nccl_all(1, nullptr, nullptr, nullptr), "comms is NULL"));
  CHECK(refused(syncnorm_comm_create_nccl_all(0, nullptr, nullptr, &comm), "n is 0"));
  CHECK(refused(syncnorm_comm_borrow_nccl(&comm, nullptr, nullptr), "comm is NULL"));
  CHECK(refused(syncnorm_comm_wait(nullptr, nullptr, 1.0), "comm is NULL"));
}

TEST_CASE("options that are no struct are refused") {
  syncnorm_comm* comm = nullptr;
  syncnorm_nccl_options options = SYNCNORM_NCCL_OPTIONS_INIT;
  options.struct_size = 4;
  CHECK(refused(syncnorm_comm_create_nccl(nullptr, 0, 1, 0, &options, &comm), "struct_size is 4"));
  CHECK(refused(syncnorm_comm_create_nccl_all(1, nullptr, &options, &comm), "struct_size is 4"));
  CHECK(refused(syncnorm_comm_borrow_nccl(&comm, &options, &comm), "struct_size is 4"));
  CHECK(comm == nullptr);
}

TEST_CASE("sums of host memory are done: there is nothing to wait for") {
  syncnorm_comm* comms[2] = {};
  REQUIRE(syncnorm_comm_create_threads(2, 60.0, comms) == SYNCNORM_OK);
  CHECK(syncnorm_comm_wait(comms[0], nullptr, 1.0) == SYNCNORM_OK);
  CHECK(refused(syncnorm_comm_wait(comms[0], nullptr, 0.0), "timeout_s is 0"));
  CHECK(refused(syncnorm_comm_wait(comms[0], nullptr, -1.0), "timeout_s is -1"));
  for (syncnorm_comm* comm : comms) syncnorm_comm_destroy(comm);
}

TEST_CASE("a build without CUDA says so") {
  syncnorm_capabilities capabilities = SYNCNORM_CAPABILITIES_INIT;
  REQUIRE(syncnorm_query_capabilities(&capabilities) == SYNCNORM_OK);
  if (capabilities.cuda_built) return;
  const auto unsupported = [](syncnorm_status status) {
    return status == SYNCNORM_UNSUPPORTED && message().find("no CUDA backend") != std::string::npos;
  };
  syncnorm_comm* comm = nullptr;
  std::uint8_t id[SYNCNORM_NCCL_ID_SIZE] = {};
  CHECK(unsupported(syncnorm_nccl_unique_id(id)));
  CHECK(unsupported(syncnorm_comm_create_nccl(id, 0, 1, 0, nullptr, &comm)));
  CHECK(unsupported(syncnorm_comm_create_nccl_all(1, nullptr, nullptr, &comm)));
  CHECK(unsupported(syncnorm_comm_borrow_nccl(&comm, nullptr, &comm)));
  CHECK(comm == nullptr);
}

}  // namespace
