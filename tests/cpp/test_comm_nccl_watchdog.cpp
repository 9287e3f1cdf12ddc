// The watchdog by itself.
#include <atomic>

#include "comm/watchdog.hpp"
#include "comm_ranks.hpp"

namespace {

using namespace syncnorm;
using contract::sleep_for;

template <class Condition>
void await(const Condition& condition) {
  while (!condition()) sleep_for(0.001);
}

class Looks final : public Watched {
 public:
  explicit Looks(std::atomic<int>& count, std::atomic<bool>* hold = nullptr)
      : count_(count), hold_(hold) {}
  void look() noexcept override {
    ++count_;
    while (hold_ != nullptr && *hold_) sleep_for(0.001);
  }

 private:
  std::atomic<int>& count_;
  std::atomic<bool>* hold_;
};

TEST_CASE("it looks again and again, as long as somebody holds what is watched") {
  std::atomic<int> looks{0};
  auto watched = std::make_shared<Looks>(looks);
  watch(WatchThread::kDeadlines, watched, 0.001);
  await([&] { return looks > 10; });
  const std::weak_ptr<Looks> gone = watched;
  watched.reset();
  await([&] { return gone.expired(); });
  const int last = looks;
  sleep_for(0.02);
  CHECK(looks == last);
}

TEST_CASE("what came later with a shorter period is looked at in time") {
  std::atomic<int> rare{0};
  std::atomic<int> frequent{0};
  const auto first = std::make_shared<Looks>(rare);
  watch(WatchThread::kDeadlines, first, 1e6);
  await([&] { return rare == 1; });
  const auto second = std::make_shared<Looks>(frequent);
  watch(WatchThread::kDeadlines, second, 0.001);
  await([&] { return frequent > 10; });
}

TEST_CASE("one that is dropped while it is looked at stays whole until the look is over") {
  std::atomic<int> looks{0};
  std::atomic<bool> hold{true};
  auto watched = std::make_shared<Looks>(looks, &hold);
  const std::weak_ptr<Looks> gone = watched;
  watch(WatchThread::kDeadlines, watched, 0.001);
  await([&] { return looks == 1; });
  watched.reset();
  CHECK(!gone.expired());
  hold = false;
  await([&] { return gone.expired(); });
}

TEST_CASE("a look of one thread does not hold up the other") {
  std::atomic<int> driver{0};
  std::atomic<int> deadlines{0};
  std::atomic<bool> hold{true};
  const auto blocked = std::make_shared<Looks>(driver, &hold);
  const auto free = std::make_shared<Looks>(deadlines);
  watch(WatchThread::kDriver, blocked, 0.001);
  await([&] { return driver == 1; });
  watch(WatchThread::kDeadlines, free, 0.001);
  await([&] { return deadlines > 10; });
  CHECK(driver == 1);
  hold = false;
  await([&] { return driver > 1; });
}

}  // namespace
