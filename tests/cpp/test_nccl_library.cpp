#include <cstdlib>
#include <string>

#include "comm/nccl_library.hpp"
#include "doctest/doctest.h"
#include "syncbn/syncbn.h"

TEST_CASE("a library that is none") {
  setenv("SYNCBN_NCCL_LIBRARY", "libc.so.6", 1);
  CHECK(syncbn::find_nccl() == nullptr);
  CHECK(syncbn::why_no_nccl().find("ncclGetVersion") != std::string::npos);
}

TEST_CASE("versions are told as people write them") {
  CHECK(syncbn::nccl_version_text(22907) == "2.29.7");
  CHECK(syncbn::nccl_version_text(23203) == "2.32.3");
  CHECK(syncbn::nccl_version_text(2708) == "2.7.8");
}

// In this order: once a library was found it stays.
TEST_CASE("a named library is the one, or there is none") {
  setenv("SYNCBN_NCCL_LIBRARY", "/nowhere/libnccl.so.2", 1);
  CHECK(syncbn::find_nccl() == nullptr);
  CHECK(syncbn::why_no_nccl().find("SYNCBN_NCCL_LIBRARY") != std::string::npos);
  CHECK(syncbn::why_no_nccl().find("/nowhere/libnccl.so.2: cannot open") != std::string::npos);
  syncbn_capabilities capabilities = SYNCBN_CAPABILITIES_INIT;
  REQUIRE(syncbn_query_capabilities(&capabilities) == SYNCBN_OK);
  CHECK(std::string(capabilities.nccl).empty());

  setenv("SYNCBN_NCCL_LIBRARY", SYNCBN_NCCL_VERSION_ONLY, 1);
  const syncbn::NcclLibrary* found = syncbn::find_nccl();
  REQUIRE(found != nullptr);
  CHECK(found->version == 22907);
  CHECK(found->path == SYNCBN_NCCL_VERSION_ONLY);
  CHECK(found == syncbn::find_nccl());

  REQUIRE(syncbn_query_capabilities(&capabilities) == SYNCBN_OK);
  CHECK(std::string(capabilities.nccl) == "2.29.7 (" SYNCBN_NCCL_VERSION_ONLY ")");
}
