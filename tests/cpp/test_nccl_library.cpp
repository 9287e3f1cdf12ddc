#include <cstdlib>
#include <string>

#include "comm/nccl_library.hpp"
#include "doctest/doctest.h"
#include "syncnorm/syncnorm.h"

TEST_CASE("a library that is none") {
  setenv("SYNCNORM_NCCL_LIBRARY", "libc.so.6", 1);
  CHECK(syncnorm::find_nccl() == nullptr);
  CHECK(syncnorm::why_no_nccl().find("ncclGetVersion") != std::string::npos);
}

TEST_CASE("versions are told as people write them") {
  CHECK(syncnorm::nccl_version_text(22907) == "2.29.7");
  CHECK(syncnorm::nccl_version_text(23203) == "2.32.3");
  CHECK(syncnorm::nccl_version_text(2708) == "2.7.8");
}

// In this order: once a library was found it stays.
TEST_CASE("a named library is the one, or there is none") {
  setenv("SYNCNORM_NCCL_LIBRARY", "/nowhere/libnccl.so.2", 1);
  CHECK(syncnorm::find_nccl() == nullptr);
  CHECK(syncnorm::why_no_nccl().find("SYNCNORM_NCCL_LIBRARY") != std::string::npos);
  CHECK(syncnorm::why_no_nccl().find("/nowhere/libnccl.so.2: cannot open") != std::string::npos);
  syncnorm_capabilities capabilities = SYNCNORM_CAPABILITIES_INIT;
  REQUIRE(syncnorm_query_capabilities(&capabilities) == SYNCNORM_OK);
  CHECK(std::string(capabilities.nccl).empty());

  setenv("SYNCNORM_NCCL_LIBRARY", SYNCNORM_NCCL_VERSION_ONLY, 1);
  const syncnorm::NcclLibrary* found = syncnorm::find_nccl();
  REQUIRE(found != nullptr);
  CHECK(found->version == 22907);
  CHECK(found->path == SYNCNORM_NCCL_VERSION_ONLY);
  CHECK(found == syncnorm::find_nccl());

  REQUIRE(syncnorm_query_capabilities(&capabilities) == SYNCNORM_OK);
  CHECK(std::string(capabilities.nccl) == "2.29.7 (" SYNCNORM_NCCL_VERSION_ONLY ")");
}
