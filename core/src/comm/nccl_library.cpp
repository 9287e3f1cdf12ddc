#include "comm/nccl_library.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>

#include "support/error.hpp"

namespace syncnorm {
namespace {

constexpr const char* kName = "libnccl.so.2";
using GetVersion = int (*)(int* version);

// The path of the file that holds `address`, "" if that is not known.
std::string file_of(const void* address) {
  Dl_info info{};
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

// Installed from a wheel this library is site-packages/syncnorm/lib/libsyncnorm.so.
std::string beside_this_package() {
  static const int anchor = 0;
  const std::string self = file_of(&anchor);
  const std::size_t folder = self.rfind("/syncnorm/lib/");
  return folder == std::string::npos ? "" : self.substr(0, folder) + "/nvidia/nccl/lib/" + kName;
}

// Opens the candidates in turn; keeps the loader's complaints.
class Search {
 public:
  void* open_first() {
    if (const char* named = std::getenv("SYNCNORM_NCCL_LIBRARY")) {
      complaints_ = "the environment variable SYNCNORM_NCCL_LIBRARY names the only candidate";
      return open(named);
    }
    if (void* loaded = dlopen(kName, RTLD_LAZY | RTLD_NOLOAD)) return loaded;
    complaints_ = "the process has not loaded it";
    const std::string packaged = beside_this_package();
    if (void* opened = packaged.empty() ? nullptr : open(packaged.c_str())) return opened;
    return open(kName);
  }

  std::unique_ptr<NcclLibrary> look() {
    void* handle = open_first();
    if (handle == nullptr) return nullptr;
    const auto get_version = reinterpret_cast<GetVersion>(dlsym(handle, "ncclGetVersion"));
    int version = 0;
    if (get_version == nullptr || get_version(&version) != 0) {
      complaints_ += "; what was opened does not tell its version by ncclGetVersion";
      return nullptr;
    }
    return std::make_unique<NcclLibrary>(
        NcclLibrary{handle, version, file_of(reinterpret_cast<const void*>(get_version))});
  }

  const std::string& complaints() const noexcept { return complaints_; }

 private:
  void* open(const char* path) {
    void* handle = dlopen(path, RTLD_LAZY);
    if (handle == nullptr) complaints_ += concat("; ", dlerror());
    return handle;
  }

  std::string complaints_;
};

}  // namespace

const NcclLibrary* find_nccl() {
  static std::mutex mutex;
  static const NcclLibrary* found = nullptr;
  const std::lock_guard lock(mutex);
  if (found == nullptr) found = Search().look().release();
  return found;
}

std::string why_no_nccl() {
  Search search;
  search.look();
  return search.complaints();
}

// 2.9 and later are major*10000 + minor*100 + patch; earlier ones had a thousand for the major.
std::string nccl_version_text(int version) {
  const int unit = version >= 10000 ? 10000 : 1000;
  return concat(version / unit, ".", version % unit / 100, ".", version % 100);
}

}  // namespace syncnorm
