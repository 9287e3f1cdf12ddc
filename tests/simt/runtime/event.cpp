// Events: an event is complete when its last recording is.
#include <algorithm>

#include "runtime/stream.hpp"

using simt::Event;
using simt::Lock;
using simt::Runtime;

namespace {

std::shared_ptr<Event> find(Runtime& runtime, cudaEvent_t handle) {
  const auto found = runtime.events.find(handle);
  return found == runtime.events.end() ? nullptr : found->second;
}

void record_in_capture(Event& event, const simt::Stream& stream) {
  event.capture = stream.capture;
  event.precedes = stream.precedes;
  event.recording = nullptr;
}

// The stream takes part in the event's capture from now on.
cudaError_t join_capture(const std::shared_ptr<simt::Stream>& stream, const Event& event) {
  if (stream->capture != nullptr && stream->capture != event.capture)
    return spoil(*stream->capture, cudaErrorStreamCaptureMerge);
  stream->capture = event.capture;
  stream->capture->members.insert(stream);
  for (const auto& [member, nodes] : event.precedes) {
    std::size_t& known = stream->precedes[member];
    known = std::max(known, nodes);
  }
  return cudaSuccess;
}

bool captures(const Event& event) { return event.capture != nullptr; }

}  // namespace

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    if (event == nullptr) return cudaErrorInvalidValue;
    *event = runtime.new_handle<cudaEvent_t>();
    auto made = std::make_shared<Event>();
    made->device = simt::this_thread().device;
    made->flags = flags;
    runtime.events[*event] = std::move(made);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    return runtime.events.erase(event) != 0 ? cudaSuccess : cudaErrorInvalidResourceHandle;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    const auto event = find(runtime, handle);
    const auto stream = simt::find_stream(runtime, stream_handle);
    if (event == nullptr || stream == nullptr || event->device != stream->device)
      return cudaErrorInvalidResourceHandle;
    if (stream->capture != nullptr) {
      record_in_capture(*event, *stream);
      return cudaSuccess;
    }
    event->capture = nullptr;
    event->recording = std::make_shared<simt::Recording>();
    enqueue(runtime, lock, *stream, {[&runtime, recording = event->recording] {
              const Lock locked(runtime.mutex);
              recording->at = std::chrono::steady_clock::now();
              recording->complete = true;
            }});
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    const auto event = find(runtime, handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (captures(*event)) return spoil(*event->capture, cudaErrorCapturedEvent);
    if (const cudaError_t error = check_not_capturing(runtime)) return error;
    const bool complete = event->recording == nullptr || event->recording->complete;
    return complete ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    const auto event = find(runtime, handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (captures(*event)) return spoil(*event->capture, cudaErrorCapturedEvent);
    if (const cudaError_t error = check_not_capturing(runtime)) return error;
    const auto recording = event->recording;
    runtime.changed.wait(lock, [&] { return recording == nullptr || recording->complete; });
    return runtime.fault.empty() ? cudaSuccess : cudaErrorLaunchFailure;
  });
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start_handle, cudaEvent_t end_handle) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    const auto start = find(runtime, start_handle);
    const auto end = find(runtime, end_handle);
    for (const auto& event : {start, end}) {
      if (event == nullptr || event->recording == nullptr ||
          (event->flags & cudaEventDisableTiming) != 0)
        return cudaErrorInvalidResourceHandle;
      if (!event->recording->complete) return cudaErrorNotReady;
    }
    *ms =
        std::chrono::duration<float, std::milli>(end->recording->at - start->recording->at).count();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    const auto event = find(runtime, handle);
    const auto stream = simt::find_stream(runtime, stream_handle);
    if (event == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (captures(*event)) return join_capture(stream, *event);
    if (stream->capture != nullptr && event->recording != nullptr)
      return spoil(*stream->capture, cudaErrorStreamCaptureIsolation);
    if (event->recording != nullptr)
      enqueue(runtime, lock, *stream,
              {[] {}, [recording = event->recording] { return recording->complete; }});
    return cudaSuccess;
  });
}
