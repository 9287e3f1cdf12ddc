#include "comm/side_call.hpp"

#include <chrono>
#include <future>
#include <thread>
#include <utility>

namespace syncnorm {

std::optional<int> result_within(double seconds, std::function<int()> body) {
  std::packaged_task<int()> task(std::move(body));
  std::future<int> result = task.get_future();
  std::thread(std::move(task)).detach();
  const auto status = result.wait_for(std::chrono::duration<double>(seconds));
  if (status != std::future_status::ready) return std::nullopt;
  return result.get();
}

}  // namespace syncnorm
