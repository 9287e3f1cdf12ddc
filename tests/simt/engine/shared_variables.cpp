#include "engine/shared_variables.hpp"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

// Declared nowhere: what the compiler calls for thread_local variables.
struct TlsIndex {
  unsigned long module;
  unsigned long offset;
};
extern "C" void* __tls_get_addr(TlsIndex*);

namespace simt {
namespace {

struct Variable {
  TlsIndex place;
  std::size_t size;
};

// What __shared__ of cuda_runtime.h adds to the mangled name.
constexpr std::string_view kTag = "B11simt_shared";

class MappedFile {
 public:
  explicit MappedFile(const char* path) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status{};
    if (file >= 0 && fstat(file, &status) == 0) {
      size_ = static_cast<std::size_t>(status.st_size);
      memory_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    }
    if (file >= 0) close(file);
  }
  ~MappedFile() {
    if (memory_ != MAP_FAILED) munmap(memory_, size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Null where the file is not that long.
  template <class T>
  const T* at(std::size_t offset, std::size_t count = 1) const {
    if (memory_ == MAP_FAILED || offset + count * sizeof(T) > size_) return nullptr;
    return reinterpret_cast<const T*>(static_cast<const char*>(memory_) + offset);
  }

 private:
  void* memory_ = MAP_FAILED;
  std::size_t size_ = 0;
};

void read_symbols(const MappedFile& file, const ElfW(Shdr) & table, const ElfW(Shdr) & names,
                  unsigned long module, std::vector<Variable>& found) {
  const std::size_t count = table.sh_size / sizeof(ElfW(Sym));
  const auto* symbols = file.at<ElfW(Sym)>(table.sh_offset, count);
  const auto* text = file.at<char>(names.sh_offset, names.sh_size);
  if (symbols == nullptr || text == nullptr) return;
  for (std::size_t i = 0; i < count; ++i)
    if (ELF64_ST_TYPE(symbols[i].st_info) == STT_TLS &&
        std::string_view(text + symbols[i].st_name).ends_with(kTag))
      found.push_back({{module, symbols[i].st_value}, symbols[i].st_size});
}

void read_module(const char* path, unsigned long module, std::vector<Variable>& found) {
  const MappedFile file(path);
  const auto* header = file.at<ElfW(Ehdr)>(0);
  if (header == nullptr || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return;
  const auto* sections = file.at<ElfW(Shdr)>(header->e_shoff, header->e_shnum);
  for (int i = 0; sections != nullptr && i < header->e_shnum; ++i)
    if (sections[i].sh_type == SHT_SYMTAB)
      read_symbols(file, sections[i], sections[sections[i].sh_link], module, found);
}

struct Modules {
  unsigned long long loads = 0;  // how many the loader had ever loaded
  std::shared_ptr<const std::vector<Variable>> variables;
};

int visit(dl_phdr_info* info, std::size_t, void* found) {
  if (info->dlpi_tls_modid == 0) return 0;
  const char* path = *info->dlpi_name == '\0' ? "/proc/self/exe" : info->dlpi_name;
  read_module(path, info->dlpi_tls_modid, *static_cast<std::vector<Variable>*>(found));
  return 0;
}

std::shared_ptr<const std::vector<Variable>> variables() {
  static std::mutex mutex;
  static Modules known;
  unsigned long long loads = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* result) {
        *static_cast<unsigned long long*>(result) = info->dlpi_adds + info->dlpi_subs;
        return 1;
      },
      &loads);
  const std::lock_guard lock(mutex);
  if (known.variables == nullptr || known.loads != loads) {
    std::vector<Variable> found;
    dl_iterate_phdr(visit, &found);
    known = {loads, std::make_shared<const std::vector<Variable>>(std::move(found))};
  }
  return known.variables;
}

// Those of the calling thread.
struct Areas {
  std::shared_ptr<const std::vector<Variable>> variables;
  std::vector<std::span<std::byte>> spans;
};
thread_local Areas areas;

}  // namespace

void fill_shared_variables() {
  if (auto all = variables(); areas.variables != all) {
    areas.spans.clear();
    for (Variable variable : *all)
      areas.spans.emplace_back(static_cast<std::byte*>(__tls_get_addr(&variable.place)),
                               variable.size);
    areas.variables = std::move(all);
  }
  for (const std::span<std::byte> span : areas.spans)
    std::memset(span.data(), kGarbage, span.size());
}

// Without a lock, which would order the memory of blocks for ThreadSanitizer.
bool is_shared_variable(const void* address) {
  return std::ranges::any_of(areas.spans, [&](std::span<std::byte> span) {
    const std::less<> before;
    return !before(address, span.data()) && before(address, span.data() + span.size());
  });
}

}  // namespace simt
