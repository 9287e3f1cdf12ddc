// Streams, events and what is enqueued.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "runtime/runtime.hpp"

namespace simt {

using Work = std::function<void()>;

// One recording of an event.
struct Recording {
  bool complete = false;
  std::chrono::steady_clock::time_point at;
};

struct Event {
  int device;
  unsigned flags;
  std::shared_ptr<Recording> recording;  // null: never recorded
  // Where it was recorded during a capture: that capture, and what preceded it.
  std::shared_ptr<Capture> capture;
  std::map<const Stream*, std::size_t> precedes;
};

struct Operation {
  Work work;
  std::function<bool()> ready = nullptr;  // null: at once when its turn comes
  // Of a kernel that may start before the kernel before it has ended: starts it, returns the rest.
  std::function<Work()> start_early = nullptr;
  bool held_back = false;  // until the next operation, which may start early
};

struct Stream {
  int device;
  unsigned flags;
  std::deque<Operation> pending;
  // Of the last kernel that is held back. Runs when the next operation has started, or before
  // anything waits for it.
  Work rest = nullptr;
  bool busy = false;     // one thread runs an operation of it
  bool blocked = false;  // by the test
  bool stalled = false;  // nobody is about to run what is pending
  // Of the capture that it takes part in: what precedes the next node on this stream, as the
  // number of nodes on each stream.
  std::shared_ptr<Capture> capture;
  std::map<const Stream*, std::size_t> precedes;
};

struct Graph {
  std::vector<Work> nodes;  // in an order that keeps every dependency
};

struct Capture {
  std::uint64_t id;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  std::shared_ptr<Stream> origin;
  std::set<std::shared_ptr<Stream>> members;
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  bool valid = true;
};

// The default stream of the current device for 0; null for a handle that is none.
std::shared_ptr<Stream> find_stream(Runtime& runtime, cudaStream_t handle);

// Adds to the capture of the stream, or runs the work when its turn comes, perhaps before this
// returns. The lock is let go while work runs.
void enqueue(Runtime& runtime, Lock& lock, Stream& stream, Operation operation);
// Runs what can run on the stream, then whatever that has made ready on others.
void advance(Runtime& runtime, Lock& lock, Stream& stream);
void wait_until_idle(Runtime& runtime, Lock& lock, Stream& stream);
bool is_idle(const Stream& stream);
// Runs the rest of the last kernel and then what it has kept from running. Returns false where
// there is no rest or the stream is busy or blocked.
bool run_rest(Runtime& runtime, Lock& lock, Stream& stream);
bool run_rests(Runtime& runtime, Lock& lock);  // of every stream

// cudaSuccess unless the call is not allowed while some stream is capturing; it then spoils the
// capture.
cudaError_t check_not_capturing(Runtime& runtime);
cudaError_t spoil(Capture& capture, cudaError_t error);

}  // namespace simt
