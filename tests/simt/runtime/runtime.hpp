// The state behind the runtime's functions.
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "simt.hpp"

namespace simt {

struct Stream;
struct Event;
struct Graph;
struct Capture;

struct Runtime {
  std::mutex mutex;
  std::condition_variable changed;  // a stream has become idle, or an event complete

  Limits limits;
  int device_count = 2;
  int driver_version = CUDART_VERSION;
  std::uint64_t seed = 0;
  bool holds_back = false;  // every kernel
  Counts counts;
  std::map<std::string, std::int64_t, std::less<>> calls;
  std::vector<std::pair<std::string, cudaError_t>> to_inject;
  std::string fault;

  std::map<cudaStream_t, std::shared_ptr<Stream>> streams;
  std::vector<std::shared_ptr<Stream>> destroyed_streams;  // that may have work pending
  std::map<cudaEvent_t, std::shared_ptr<Event>> events;
  std::map<cudaGraph_t, std::shared_ptr<Graph>> graphs;
  std::map<cudaGraphExec_t, std::shared_ptr<const Graph>> executables;
  std::vector<std::shared_ptr<Capture>> captures;             // under way
  std::uintptr_t handles = 0;                                 // given out
  std::map<std::pair<int, const void*>, int> dynamic_shared;  // allowed, by device and kernel
  std::set<std::pair<int, const void*>> large_clusters;       // allowed, likewise
  struct Allocation {
    std::size_t bytes;
    int device;  // -1 on the host
  };
  std::map<const void*, Allocation> allocations;

  static Runtime& get();
  // Numbers that no address has, so that using one as a pointer is seen.
  template <class Handle>
  Handle new_handle() {
    return reinterpret_cast<Handle>(++handles * 16 + 0x51'0000'0000'0000);
  }
};

struct HostThread {
  int device = 0;
  cudaError_t last_error = cudaSuccess;
  cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
};
HostThread& this_thread();

using Lock = std::unique_lock<std::mutex>;

// Around the body of every function of the runtime: counts it, gives the error to inject or of an
// earlier fault, remembers the error that it returns. The body is called with the runtime locked.
cudaError_t call(const char* function,
                 const std::function<cudaError_t(Runtime& runtime, Lock& lock)>& body);

}  // namespace simt
