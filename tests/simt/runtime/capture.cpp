// Capture of streams into graphs, and their replay.
#include <algorithm>

#include "runtime/stream.hpp"

using simt::Capture;
using simt::Graph;
using simt::Lock;
using simt::Runtime;
using simt::Stream;

namespace {

cudaStreamCaptureStatus status_of(const Stream& stream) {
  if (stream.capture == nullptr) return cudaStreamCaptureStatusNone;
  return stream.capture->valid ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusInvalidated;
}

// Whether everything captured precedes the end of the stream that began it.
bool is_joined(const Capture& capture) {
  return std::ranges::all_of(capture.members, [&](const auto& member) {
    const auto own = member->precedes.find(member.get());
    const std::size_t nodes = own == member->precedes.end() ? 0 : own->second;
    const auto known = capture.origin->precedes.find(member.get());
    return nodes == 0 || (known != capture.origin->precedes.end() && known->second >= nodes);
  });
}

}  // namespace

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    const auto stream = simt::find_stream(runtime, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    run_rest(runtime, lock, *stream);
    if (handle == nullptr || handle == cudaStreamLegacy) return cudaErrorStreamCaptureUnsupported;
    if (stream->capture != nullptr) return spoil(*stream->capture, cudaErrorIllegalState);
    auto capture = std::make_shared<Capture>();
    capture->id = ++runtime.handles;
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->origin = stream;
    capture->members.insert(stream);
    stream->capture = capture;
    stream->precedes.clear();
    runtime.captures.push_back(std::move(capture));
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    const auto stream = simt::find_stream(runtime, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    const std::shared_ptr<Capture> capture = stream->capture;
    if (capture == nullptr) return cudaErrorIllegalState;
    if (capture->origin != stream) return spoil(*capture, cudaErrorStreamCaptureUnmatched);
    if (capture->mode != cudaStreamCaptureModeRelaxed &&
        capture->thread != std::this_thread::get_id())
      return spoil(*capture, cudaErrorStreamCaptureWrongThread);
    const bool joined = is_joined(*capture);
    for (const auto& member : capture->members) {
      member->capture = nullptr;
      member->precedes.clear();
    }
    capture->members.clear();
    capture->origin = nullptr;
    std::erase(runtime.captures, capture);
    *graph = nullptr;
    if (!capture->valid) return cudaErrorStreamCaptureInvalidated;
    if (!joined) return cudaErrorStreamCaptureUnjoined;
    *graph = runtime.new_handle<cudaGraph_t>();
    runtime.graphs[*graph] = capture->graph;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    const auto stream = simt::find_stream(runtime, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    *status = status_of(*stream);
    return cudaSuccess;
  });
}

// The graph and its dependencies are not given out: they are asked for only to be changed.
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, std::size_t* count) {
  const bool more = graph != nullptr || dependencies != nullptr || edges || count != nullptr;
#else
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies, std::size_t* count) {
  const bool more = graph != nullptr || dependencies != nullptr || count != nullptr;
#endif
  return simt::call("cudaStreamGetCaptureInfo", [&](Runtime& runtime, Lock&) {
    const auto stream = simt::find_stream(runtime, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (more) return cudaErrorNotSupported;
    *status = status_of(*stream);
    if (id != nullptr && stream->capture != nullptr) *id = stream->capture->id;
    return cudaSuccess;
  });
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return simt::call(__func__, [&](Runtime&, Lock&) {
    std::swap(*mode, simt::this_thread().capture_mode);
    return cudaSuccess;
  });
}

// ------------------------------------------------------------------------------------- graphs

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    const auto found = runtime.graphs.find(graph);
    if (found == runtime.graphs.end()) return cudaErrorInvalidValue;
    *executable = runtime.new_handle<cudaGraphExec_t>();
    runtime.executables[*executable] = std::make_shared<const Graph>(*found->second);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    const auto stream = simt::find_stream(runtime, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    const auto found = runtime.executables.find(executable);
    if (found == runtime.executables.end()) return cudaErrorInvalidValue;
    enqueue(runtime, lock, *stream, {[graph = found->second] {
              for (const simt::Work& node : graph->nodes) node();
            }});
    return runtime.fault.empty() ? cudaSuccess : cudaErrorLaunchFailure;
  });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    const auto found = runtime.graphs.find(graph);
    if (found == runtime.graphs.end()) return cudaErrorInvalidValue;
    if (nodes != nullptr) return cudaErrorNotSupported;
    *count = found->second->nodes.size();
    return cudaSuccess;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    return runtime.graphs.erase(graph) != 0 ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    return runtime.executables.erase(executable) != 0 ? cudaSuccess : cudaErrorInvalidValue;
  });
}
