// Threads that help a caller through a list of independent tasks.
//
// One pool per process, shared by all callers; workers are started when first asked for, sleep when
// idle and live as long as the process. A forked child starts with a pool of its own.
#pragma once

#include <cstdint>
#include <memory>

namespace syncnorm::cpu {

// Calls task(0) ... task(count - 1), each once, on the caller and at most threads - 1 workers;
// returns when all are done. Tasks must not throw. Which thread runs a task is left open.
void run_tasks(int threads, std::int64_t count, void (*task)(void* context, std::int64_t index),
               void* context);

template <class Task>
void parallel_for(int threads, std::int64_t count, Task&& task) {
  using Body = std::remove_reference_t<Task>;
  run_tasks(
      threads, count,
      [](void* context, std::int64_t index) { (*static_cast<Body*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(std::addressof(task))));
}

}  // namespace syncnorm::cpu
