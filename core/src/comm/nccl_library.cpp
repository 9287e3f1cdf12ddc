#include "comm/nccl_library.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>

#include "support/error.hpp"

namespace syncbn {
namespace {

constexpr const char* kName = "libnccl.so.2";
using GetVersion = int (*)(int* version);

// The path of the file that holds `address`, "" if that is not known.
std::string file_of(const void* address) {
  Dl_info info{};
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

// Installed from a wheel this library is site-packages/syncbn/lib/libsyncbn.so.
std::string beside_this_package() {
  static const int anchor = 0;
  const std::string self = file_of(&anchor);
  const std::size_t folder = self.rfind("/syncbn/lib/");
  return folder == std::string::npos ? "" : self.substr(0, folder) + "/nvidia/nccl/lib/" + kName;
}

void* open_first() {
  if (const char* named = std::getenv("SYNCBN_NCCL_LIBRARY")) return dlopen(named, RTLD_LAZY);
  if (void* loaded = dlopen(kName, RTLD_LAZY | RTLD_NOLOAD)) return loaded;
  const std::string packaged = beside_this_package();
  if (void* opened = packaged.empty() ? nullptr : dlopen(packaged.c_str(), RTLD_LAZY))
    return opened;
  return dlopen(kName, RTLD_LAZY);
}

std::unique_ptr<NcclLibrary> look() {
  void* handle = open_first();
  if (handle == nullptr) return nullptr;
  const auto get_version = reinterpret_cast<GetVersion>(dlsym(handle, "ncclGetVersion"));
  int version = 0;
  if (get_version == nullptr || get_version(&version) != 0) return nullptr;
  return std::make_unique<NcclLibrary>(
      NcclLibrary{handle, version, file_of(reinterpret_cast<const void*>(get_version))});
}

}  // namespace

const NcclLibrary* find_nccl() {
  static std::mutex mutex;
  static const NcclLibrary* found = nullptr;
  const std::lock_guard lock(mutex);
  if (found == nullptr) found = look().release();
  return found;
}

// 2.9 and later are major*10000 + minor*100 + patch; earlier ones had a thousand for the major.
std::string nccl_version_text(int version) {
  const int unit = version >= 10000 ? 10000 : 1000;
  return concat(version / unit, ".", version % unit / 100, ".", version % 100);
}

}  // namespace syncbn
