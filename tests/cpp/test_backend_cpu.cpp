// The backend contract on the CPU. Run once per instruction set (SYNCBN_CPU_ISA).
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "backend_cases.hpp"

namespace {

class Cpu final : public contract::Device {
 public:
  syncbn_device kind() const override { return SYNCBN_CPU; }
  void* stream() const override { return nullptr; }
  std::shared_ptr<void> allocate(std::size_t bytes) override {
    constexpr std::align_val_t kAlignment{64};
    return {::operator new(bytes, kAlignment),
            [](void* memory) { ::operator delete(memory, kAlignment); }};
  }
  void upload(void* to, const void* from, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void download(void* to, const void* from, std::size_t bytes) override { upload(to, from, bytes); }
};

}  // namespace

contract::Device& contract::device_under_test() {
  static Cpu cpu;
  return cpu;
}

TEST_CASE("the instruction set that was asked for is the one in use") {
  const char* wanted = std::getenv("SYNCBN_CPU_ISA");
  if (wanted == nullptr) return;
  syncbn_capabilities capabilities = SYNCBN_CAPABILITIES_INIT;
  REQUIRE(syncbn_query_capabilities(&capabilities) == SYNCBN_OK);
  if (std::string(capabilities.cpu_isa) != wanted)
    MESSAGE("this machine has no ", wanted, "; the tests ran with ", capabilities.cpu_isa);
}
