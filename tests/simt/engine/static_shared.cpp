#include "engine/static_shared.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/modules.hpp"

namespace simt {
namespace {

// Which function of a module refers to which functions and __shared__ variables.
class References {
 public:
  explicit References(const ElfFile& file);

  bool known() const { return known_; }
  // `address`: as in the file.
  std::size_t shared_bytes(std::uintptr_t address) const;

 private:
  struct Function {
    std::uintptr_t end;
    std::set<std::uintptr_t> functions;  // where they begin
    std::set<std::uintptr_t> variables;
  };
  using Functions = std::map<std::uintptr_t, Function>;  // by where they begin

  Functions::const_iterator function_at(std::uintptr_t address) const {
    const auto after = functions_.upper_bound(address);
    if (after == functions_.begin()) return functions_.end();
    const auto found = std::prev(after);
    return address < found->second.end ? found : functions_.end();
  }
  void add(const ElfFile& file, const ElfW(Rela) & relocation);
  void collect(std::uintptr_t function, std::set<std::uintptr_t>& functions,
               std::set<std::uintptr_t>& variables) const;

  bool known_ = false;
  Functions functions_;
  std::map<std::uintptr_t, std::size_t> variable_bytes_;
};

References::References(const ElfFile& file) {
  for (const ElfW(Sym) & symbol : file.symbols()) {
    if (is_shared_variable(file, symbol))
      variable_bytes_[symbol.st_value] = symbol.st_size;
    else if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_shndx != SHN_UNDEF)
      functions_[symbol.st_value].end = symbol.st_value + symbol.st_size;
  }
  for (const ElfW(Shdr) & section : file.sections()) {
    if (section.sh_type != SHT_RELA || section.sh_info >= file.sections().size()) continue;
    const ElfW(Shdr) & of = file.sections()[section.sh_info];
    if ((of.sh_flags & SHF_EXECINSTR) == 0 || (section.sh_flags & SHF_ALLOC) != 0) continue;
    known_ = true;
    for (const ElfW(Rela) & relocation : file.entries<ElfW(Rela)>(section)) add(file, relocation);
  }
}

void References::add(const ElfFile& file, const ElfW(Rela) & relocation) {
  const auto found = function_at(relocation.r_offset);
  if (found == functions_.end()) return;
  Function& user = functions_.at(found->first);
  const ElfW(Sym) & symbol = file.symbols()[ELF64_R_SYM(relocation.r_info)];
  const auto type = ELF64_ST_TYPE(symbol.st_info);
  if (type == STT_TLS) {
    if (variable_bytes_.contains(symbol.st_value)) user.variables.insert(symbol.st_value);
    return;
  }
  if (type != STT_FUNC && type != STT_SECTION) return;
  std::uintptr_t address = symbol.st_value;
  if (type == STT_SECTION) {  // of a function that no other module sees
    address += static_cast<std::uintptr_t>(relocation.r_addend);
#ifdef __x86_64__
    address += 4;  // relative to the next instruction
#endif
  }
  if (const auto used = function_at(address); used != functions_.end())
    user.functions.insert(used->first);
}

std::size_t References::shared_bytes(std::uintptr_t address) const {
  std::set<std::uintptr_t> functions, variables;
  if (const auto found = function_at(address); found != functions_.end())
    collect(found->first, functions, variables);
  std::size_t bytes = 0;
  for (const std::uintptr_t variable : variables) bytes += variable_bytes_.at(variable);
  constexpr std::size_t kUnit = 16;  // in which ptxas counts
  return (bytes + kUnit - 1) / kUnit * kUnit;
}

void References::collect(std::uintptr_t function, std::set<std::uintptr_t>& functions,
                         std::set<std::uintptr_t>& variables) const {
  if (!functions.insert(function).second) return;
  const Function& found = functions_.at(function);
  variables.insert(found.variables.begin(), found.variables.end());
  for (const std::uintptr_t used : found.functions) collect(used, functions, variables);
}

std::optional<std::size_t> read(const void* kernel,
                                std::map<std::string, std::unique_ptr<References>>& modules) {
  const auto address = reinterpret_cast<std::uintptr_t>(kernel);
  for (const Module& module : loaded_modules()) {
    if (address < module.begin || address >= module.end) continue;
    auto& references = modules[module.path];
    if (references == nullptr) references = std::make_unique<References>(ElfFile(module.path));
    if (references->known()) return references->shared_bytes(address - module.base);
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::size_t> static_shared_bytes(const void* kernel) {
  static std::mutex mutex;
  static unsigned long long known_changes = 0;
  static std::map<const void*, std::optional<std::size_t>> known;
  static std::map<std::string, std::unique_ptr<References>> modules;
  const unsigned long long changes = module_changes();
  const std::lock_guard lock(mutex);
  if (known_changes != changes) {
    known.clear();
    modules.clear();
    known_changes = changes;
  }
  const auto found = known.find(kernel);
  if (found != known.end()) return found->second;
  return known[kernel] = read(kernel, modules);
}

}  // namespace simt
