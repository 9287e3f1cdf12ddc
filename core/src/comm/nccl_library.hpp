// NCCL, found at run time: the library is neither linked nor bundled.
#pragma once

#include <string>

namespace syncnorm {

struct NcclLibrary {
  void* handle;  // of dlopen; never closed
  int version;   // as ncclGetVersion gives it: 22907 for 2.29.7
  std::string path;
};

// The first that loads of: the file named by SYNCNORM_NCCL_LIBRARY (then no other is tried), one
// that the process has loaded already, the nvidia-nccl package beside this library's own Python
// package, the system's. nullptr: none. Looked for at the first call, and again until one is found.
const NcclLibrary* find_nccl();

// Where find_nccl() looked and what the loader said. Looks again: for error messages.
std::string why_no_nccl();

// 22907 -> "2.29.7"
std::string nccl_version_text(int version);

}  // namespace syncnorm
