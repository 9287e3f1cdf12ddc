#include "runtime/stream.hpp"

#include <utility>

namespace simt {
namespace {

cudaStream_t default_stream(int device) {
  return reinterpret_cast<cudaStream_t>(static_cast<std::uintptr_t>(0x10000 + device));
}

bool can_run(const Stream& stream) {
  return !stream.busy && !stream.blocked && !stream.pending.empty() &&
         (!stream.pending.front().ready || stream.pending.front().ready());
}

template <class F>
void run_unlocked(Runtime& runtime, Lock& lock, Stream& stream, F&& work) {
  stream.busy = true;
  lock.unlock();
  work();
  lock.lock();
  stream.busy = false;
  runtime.changed.notify_all();
}

void run_front(Runtime& runtime, Lock& lock, Stream& stream) {
  Operation operation = std::move(stream.pending.front());
  stream.pending.pop_front();
  run_unlocked(runtime, lock, stream, [&] {
    const Work before = std::exchange(stream.rest, nullptr);
    const bool early = before && operation.start_early;
    if (early) stream.rest = operation.start_early();
    if (before) before();
    if (!operation.held_back)
      operation.work();
    else if (!early)
      stream.rest = std::move(operation.work);
  });
}

bool can_run_rest(const Stream& stream) { return !stream.busy && !stream.blocked && stream.rest; }

void run_rest_alone(Runtime& runtime, Lock& lock, Stream& stream) {
  run_unlocked(runtime, lock, stream, [&] { std::exchange(stream.rest, nullptr)(); });
}

void run_all(Runtime& runtime, Lock& lock, Stream& stream) {
  for (;;) {
    if (can_run(stream))
      run_front(runtime, lock, stream);
    else if (!stream.pending.empty() && can_run_rest(stream))
      run_rest_alone(runtime, lock, stream);
    else
      break;
  }
  stream.stalled = !stream.busy && !stream.pending.empty();
}

std::shared_ptr<Stream> runnable_stalled(Runtime& runtime) {
  for (const auto& [handle, stream] : runtime.streams)
    if (stream->stalled && can_run(*stream)) return stream;
  for (const auto& stream : runtime.destroyed_streams)
    if (stream->stalled && can_run(*stream)) return stream;
  return nullptr;
}

}  // namespace

std::shared_ptr<Stream> find_stream(Runtime& runtime, cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread) {
    const int device = this_thread().device;
    auto& stream = runtime.streams[default_stream(device)];
    if (stream == nullptr) stream = std::make_shared<Stream>(device, cudaStreamDefault);
    return stream;
  }
  const auto found = runtime.streams.find(handle);
  return found == runtime.streams.end() ? nullptr : found->second;
}

void enqueue(Runtime& runtime, Lock& lock, Stream& stream, Operation operation) {
  if (stream.capture != nullptr) {
    stream.capture->graph->nodes.push_back(std::move(operation.work));
    ++stream.precedes[&stream];
    return;
  }
  stream.pending.push_back(std::move(operation));
  advance(runtime, lock, stream);
}

void advance(Runtime& runtime, Lock& lock, Stream& stream) {
  run_all(runtime, lock, stream);
  // Others that a thread of their own will run are left to it.
  while (const auto other = runnable_stalled(runtime)) run_all(runtime, lock, *other);
}

bool is_idle(const Stream& stream) {
  return !stream.busy && stream.pending.empty() && !stream.rest;
}

void wait_until_idle(Runtime& runtime, Lock& lock, Stream& stream) {
  while (!is_idle(stream))
    if (!run_rest(runtime, lock, stream)) runtime.changed.wait(lock);
}

bool run_rest(Runtime& runtime, Lock& lock, Stream& stream) {
  if (!can_run_rest(stream)) return false;
  run_rest_alone(runtime, lock, stream);
  advance(runtime, lock, stream);
  return true;
}

bool run_rests(Runtime& runtime, Lock& lock) {
  std::vector<std::shared_ptr<Stream>> streams;
  for (const auto& entry : runtime.streams) streams.push_back(entry.second);
  bool any = false;
  for (const auto& stream : streams) any |= run_rest(runtime, lock, *stream);
  return any;
}

cudaError_t spoil(Capture& capture, cudaError_t error) {
  capture.valid = false;
  return error;
}

cudaError_t check_not_capturing(Runtime& runtime) {
  const HostThread& self = this_thread();
  if (self.capture_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  for (const auto& capture : runtime.captures) {
    if (capture->mode == cudaStreamCaptureModeRelaxed) continue;
    const bool own = capture->thread == std::this_thread::get_id();
    const bool others = capture->mode == cudaStreamCaptureModeGlobal &&
                        self.capture_mode == cudaStreamCaptureModeGlobal;
    if (own || others) return spoil(*capture, cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}

void block_stream(cudaStream_t handle) {
  Runtime& runtime = Runtime::get();
  const Lock lock(runtime.mutex);
  if (const auto stream = find_stream(runtime, handle)) stream->blocked = true;
}

void unblock_stream(cudaStream_t handle) {
  Runtime& runtime = Runtime::get();
  Lock lock(runtime.mutex);
  const auto stream = find_stream(runtime, handle);
  if (stream == nullptr) return;
  stream->blocked = false;
  advance(runtime, lock, *stream);
}

Gate::Gate(cudaStream_t handle) : open_(std::make_shared<bool>(false)) {
  Runtime& runtime = Runtime::get();
  Lock lock(runtime.mutex);
  if (const auto stream = find_stream(runtime, handle))
    enqueue(runtime, lock, *stream, {[] {}, [open = open_] { return *open; }});
}

void Gate::open() {
  Runtime& runtime = Runtime::get();
  Lock lock(runtime.mutex);
  *open_ = true;
  while (const auto stream = runnable_stalled(runtime)) advance(runtime, lock, *stream);
}

}  // namespace simt

// ------------------------------------------------------------------------- the runtime's functions

using simt::Lock;
using simt::Runtime;
using simt::Stream;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    if (stream == nullptr) return cudaErrorInvalidValue;
    *stream = runtime.new_handle<cudaStream_t>();
    runtime.streams[*stream] = std::make_shared<Stream>(simt::this_thread().device, flags);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

// What is still pending runs when it can, with nobody to wait for it.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    if (const auto found = runtime.streams.find(stream); found != runtime.streams.end())
      run_rest(runtime, lock, *std::shared_ptr(found->second));
    const auto found = runtime.streams.find(stream);
    if (found == runtime.streams.end()) return cudaErrorInvalidResourceHandle;
    std::erase_if(runtime.destroyed_streams, [](const auto& s) { return s->pending.empty(); });
    runtime.destroyed_streams.push_back(found->second);
    runtime.streams.erase(found);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    const auto stream = simt::find_stream(runtime, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture) return spoil(*stream->capture, cudaErrorStreamCaptureUnsupported);
    if (const cudaError_t error = check_not_capturing(runtime)) return error;
    wait_until_idle(runtime, lock, *stream);
    return runtime.fault.empty() ? cudaSuccess : cudaErrorLaunchFailure;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    const auto stream = simt::find_stream(runtime, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture) return spoil(*stream->capture, cudaErrorStreamCaptureUnsupported);
    if (const cudaError_t error = check_not_capturing(runtime)) return error;
    run_rest(runtime, lock, *stream);
    return is_idle(*stream) ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    const auto stream = simt::find_stream(runtime, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    *flags = stream->flags;
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    const auto stream = simt::find_stream(runtime, handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (function == nullptr) return cudaErrorInvalidValue;
    enqueue(runtime, lock, *stream, {[=] { function(data); }});
    return cudaSuccess;
  });
}
