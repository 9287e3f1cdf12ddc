// The executable and the shared libraries of this process, and their files.
#pragma once

#include <elf.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace simt {

struct Module {
  std::string path;
  std::uintptr_t base;  // what is added to the addresses in its file
  std::uintptr_t begin, end;
  unsigned long tls;  // its number for __tls_get_addr; 0 if it has no thread_local variables
};
std::vector<Module> loaded_modules();
// How many were ever loaded or unloaded.
unsigned long long module_changes();

// Empty where the file is not ELF.
class ElfFile {
 public:
  explicit ElfFile(const std::string& path);
  ~ElfFile();
  ElfFile(const ElfFile&) = delete;
  ElfFile& operator=(const ElfFile&) = delete;

  std::span<const ElfW(Shdr)> sections() const { return sections_; }
  std::span<const ElfW(Sym)> symbols() const { return symbols_; }
  std::string_view name(const ElfW(Sym) & symbol) const { return names_ + symbol.st_name; }
  // The entries of a section; none where the file is not that long.
  template <class T>
  std::span<const T> entries(const ElfW(Shdr) & section) const {
    const T* first = at<T>(section.sh_offset, section.sh_size / sizeof(T));
    return {first, first == nullptr ? 0 : section.sh_size / sizeof(T)};
  }

 private:
  template <class T>
  const T* at(std::size_t offset, std::size_t count) const {
    if (offset + count * sizeof(T) > size_) return nullptr;
    return reinterpret_cast<const T*>(memory_ + offset);
  }

  const std::byte* memory_ = nullptr;
  std::size_t size_ = 0;
  std::span<const ElfW(Shdr)> sections_;
  std::span<const ElfW(Sym)> symbols_;
  const char* names_ = nullptr;
};

// Whether a symbol is a __shared__ variable.
bool is_shared_variable(const ElfFile& file, const ElfW(Sym) & symbol);

}  // namespace simt
