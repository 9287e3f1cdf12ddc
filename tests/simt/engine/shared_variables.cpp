#include "engine/shared_variables.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "engine/modules.hpp"

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

std::shared_ptr<const std::vector<Variable>> variables() {
  static std::mutex mutex;
  static unsigned long long known_changes = 0;
  static std::shared_ptr<const std::vector<Variable>> known;
  const unsigned long long changes = module_changes();
  const std::lock_guard lock(mutex);
  if (known == nullptr || known_changes != changes) {
    std::vector<Variable> found;
    for (const Module& module : loaded_modules()) {
      if (module.tls == 0) continue;
      const ElfFile file(module.path);
      for (const ElfW(Sym) & symbol : file.symbols())
        if (is_shared_variable(file, symbol))
          found.push_back({{module.tls, symbol.st_value}, symbol.st_size});
    }
    known = std::make_shared<const std::vector<Variable>>(std::move(found));
    known_changes = changes;
  }
  return known;
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

const std::vector<std::span<std::byte>>& shared_variables() { return areas.spans; }

// Without a lock, which would order the memory of blocks for ThreadSanitizer.
bool is_shared_variable(const void* address) {
  return std::ranges::any_of(areas.spans, [&](std::span<std::byte> span) {
    const std::less<> before;
    return !before(address, span.data()) && before(address, span.data() + span.size());
  });
}

}  // namespace simt
