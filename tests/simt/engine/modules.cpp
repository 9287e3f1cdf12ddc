#include "engine/modules.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace simt {

std::vector<Module> loaded_modules() {
  std::vector<Module> modules;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* result) {
        const char* path = *info->dlpi_name == '\0' ? "/proc/self/exe" : info->dlpi_name;
        Module module{path, info->dlpi_addr, UINTPTR_MAX, 0, info->dlpi_tls_modid};
        for (const ElfW(Phdr) & part : std::span(info->dlpi_phdr, info->dlpi_phnum)) {
          if (part.p_type != PT_LOAD) continue;
          module.begin = std::min(module.begin, module.base + part.p_vaddr);
          module.end = std::max(module.end, module.base + part.p_vaddr + part.p_memsz);
        }
        static_cast<std::vector<Module>*>(result)->push_back(std::move(module));
        return 0;
      },
      &modules);
  return modules;
}

unsigned long long module_changes() {
  unsigned long long changes = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* result) {
        *static_cast<unsigned long long*>(result) = info->dlpi_adds + info->dlpi_subs;
        return 1;
      },
      &changes);
  return changes;
}

ElfFile::ElfFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status{};
  if (file >= 0 && fstat(file, &status) == 0) {
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    if (memory != MAP_FAILED) {
      memory_ = static_cast<const std::byte*>(memory);
      size_ = size;
    }
  }
  if (file >= 0) close(file);
  const auto* header = at<ElfW(Ehdr)>(0, 1);
  if (header == nullptr || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return;
  const auto* sections = at<ElfW(Shdr)>(header->e_shoff, header->e_shnum);
  if (sections == nullptr) return;
  sections_ = {sections, header->e_shnum};
  for (const ElfW(Shdr) & section : sections_)
    if (section.sh_type == SHT_SYMTAB) {
      const ElfW(Shdr) & names = sections_[section.sh_link];
      names_ = at<char>(names.sh_offset, names.sh_size);
      if (names_ != nullptr) symbols_ = entries<ElfW(Sym)>(section);
    }
}

ElfFile::~ElfFile() {
  if (memory_ != nullptr) munmap(const_cast<std::byte*>(memory_), size_);
}

bool is_shared_variable(const ElfFile& file, const ElfW(Sym) & symbol) {
  // What __shared__ of cuda_runtime.h adds to the mangled name.
  constexpr std::string_view kTag = "B11simt_shared";
  if (ELF64_ST_TYPE(symbol.st_info) != STT_TLS) return false;
  const std::string_view name = file.name(symbol);
  const std::size_t tag = name.rfind(kTag);
  if (tag == std::string_view::npos) return false;
  const std::string_view after = name.substr(tag + kTag.size());
  return after.empty() || after.front() == '_';  // the second of that name in a function
}

}  // namespace simt
