#include "comm/side_call.hpp"

#include <chrono>
#include <future>
#include <thread>
#include <utility>

#include "comm/interrupt.hpp"

namespace syncnorm {

std::optional<int> result_within(double seconds, std::function<int()> body) {
  std::packaged_task<int()> task(std::move(body));
  std::future<int> result = task.get_future();
  std::thread(std::move(task)).detach();
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(seconds));
  InterruptCheck interrupt;
  while (result.wait_until(interrupt.wake_by(deadline)) != std::future_status::ready)
    if (interrupt.interrupted() || Clock::now() >= deadline) return std::nullopt;
  return result.get();
}

}  // namespace syncnorm
