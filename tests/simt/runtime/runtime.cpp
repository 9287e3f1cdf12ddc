#include "runtime/runtime.hpp"

#include <algorithm>
#include <cstdlib>

#include "runtime/stream.hpp"

namespace simt {
namespace {

std::uint64_t seed_of_environment() {
  const char* text = std::getenv("SIMT_SEED");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

std::optional<cudaError_t> injected(Runtime& runtime, std::string_view function) {
  auto& pending = runtime.to_inject;
  const auto found = std::find_if(pending.begin(), pending.end(), [&](const auto& injection) {
    return injection.first.empty() || injection.first == function;
  });
  if (found == pending.end()) return std::nullopt;
  const cudaError_t error = found->second;
  pending.erase(found);
  return error;
}

}  // namespace

Runtime& Runtime::get() {
  // Never destroyed: the process may still call while it exits.
  static Runtime& runtime = *[] {
    auto* made = new Runtime;
    made->seed = seed_of_environment();
    return made;
  }();
  return runtime;
}

HostThread& this_thread() {
  static thread_local HostThread thread;
  return thread;
}

cudaError_t call(const char* function,
                 const std::function<cudaError_t(Runtime& runtime, Lock& lock)>& body) {
  Runtime& runtime = Runtime::get();
  Lock lock(runtime.mutex);
  ++runtime.calls[function];
  cudaError_t error = cudaErrorLaunchFailure;
  if (const auto instead = injected(runtime, function))
    error = *instead;
  else if (runtime.driver_version < CUDART_VERSION)
    error = cudaErrorInsufficientDriver;
  else if (runtime.fault.empty())
    error = body(runtime, lock);
  if (error != cudaSuccess) this_thread().last_error = error;
  return error;
}

// ------------------------------------------------------------------------------ said by the test

void set_limits(const Limits& limits) {
  const Lock lock(Runtime::get().mutex);
  Runtime::get().limits = limits;
}

Limits limits() {
  const Lock lock(Runtime::get().mutex);
  return Runtime::get().limits;
}

void set_device_count(int count) {
  const Lock lock(Runtime::get().mutex);
  Runtime::get().device_count = count;
}

void set_driver_version(int version) {
  const Lock lock(Runtime::get().mutex);
  Runtime::get().driver_version = version;
}

void set_seed(std::uint64_t seed) {
  const Lock lock(Runtime::get().mutex);
  Runtime::get().seed = seed;
}

void hold_back_kernels(bool hold) {
  const Lock lock(Runtime::get().mutex);
  Runtime::get().holds_back = hold;
}

std::uint64_t seed() {
  const Lock lock(Runtime::get().mutex);
  return Runtime::get().seed;
}

Counts counts() {
  const Lock lock(Runtime::get().mutex);
  return Runtime::get().counts;
}

std::int64_t calls(std::string_view function) {
  const Lock lock(Runtime::get().mutex);
  const auto found = Runtime::get().calls.find(function);
  return found == Runtime::get().calls.end() ? 0 : found->second;
}

void fail_next(cudaError_t error, std::string_view function) {
  const Lock lock(Runtime::get().mutex);
  Runtime::get().to_inject.emplace_back(function, error);
}

std::string fault() {
  const Lock lock(Runtime::get().mutex);
  return Runtime::get().fault;
}

void reset() {
  Runtime& runtime = Runtime::get();
  Lock lock(runtime.mutex);
  while (run_rests(runtime, lock)) {
  }
  runtime.limits = {};
  runtime.device_count = 2;
  runtime.driver_version = CUDART_VERSION;
  runtime.seed = seed_of_environment();
  runtime.to_inject.clear();
  runtime.fault.clear();
  this_thread().last_error = cudaSuccess;
}

}  // namespace simt
