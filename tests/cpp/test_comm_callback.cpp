#include "comm/callback.hpp"

#include <future>
#include <thread>
#include <type_traits>

#include "comm/threads.hpp"
#include "comm_contract.hpp"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

// Callbacks over a threads communicator: a trainer's own collectives, with ranks that really wait.
template <class Body>
syncnorm_status status_of(Body&& body) {
  const Outcome outcome = outcome_of(std::forward<Body>(body));
  return outcome ? outcome->status() : SYNCNORM_OK;
}

syncnorm_status sum_over_threads(void* context, const double* src, double* dst, std::int64_t count,
                                 void* stream) {
  return status_of(
      [&] { static_cast<Communicator*>(context)->sum(src, dst, count, SYNCNORM_CPU, stream); });
}

syncnorm_status split_over_threads(void* context, std::int32_t color, std::int32_t key,
                                   void** new_context, std::int32_t* new_rank,
                                   std::int32_t* new_size) {
  return status_of([&] {
    auto part = static_cast<Communicator*>(context)->split(color, key);
    if (!part) return;
    *new_rank = part->rank();
    *new_size = part->size();
    *new_context = part.release();
  });
}

void release_threads(void* context) { delete static_cast<Communicator*>(context); }

Ranks make_callback_group(int n, double timeout_s) {
  Ranks ranks;
  for (auto& rank : make_thread_group(n, timeout_s)) {
    const int r = rank->rank();
    ranks.push_back(
        make_callback_communicator(r, n,
                                   {sizeof(syncnorm_callbacks), rank.release(), sum_over_threads,
                                    split_over_threads, release_threads, 0}));
  }
  return ranks;
}

TEST_CASE("a callback communicator keeps the contract") {
  check_contract({make_callback_group, false});
}

// A trainer whose answers the test sets and whose calls it counts. Its group has one rank.
struct Trainer {
  syncnorm_status answer = SYNCNORM_OK;
  std::int32_t part_rank = 0;
  std::int32_t part_size = 1;
  Trainer* part = nullptr;
  int sums = 0;
  int splits = 0;
  int releases = 0;
  void* stream = nullptr;

  syncnorm_callbacks callbacks() {
    return {sizeof(syncnorm_callbacks), this, sum, split, release, 0};
  }

  static syncnorm_status sum(void* context, const double* src, double* dst, std::int64_t count,
                             void* stream) {
    auto& self = *static_cast<Trainer*>(context);
    ++self.sums;
    self.stream = stream;
    if (self.answer == SYNCNORM_OK) std::copy(src, src + count, dst);
    return self.answer;
  }
  static syncnorm_status split(void* context, std::int32_t, std::int32_t, void** new_context,
                               std::int32_t* new_rank, std::int32_t* new_size) {
    auto& self = *static_cast<Trainer*>(context);
    ++self.splits;
    *new_context = self.part;
    *new_rank = self.part_rank;
    *new_size = self.part_size;
    return self.answer;
  }
  static void release(void* context) { ++static_cast<Trainer*>(context)->releases; }
};

TEST_CASE("a callback that fails names itself and its rank, for good") {
  Trainer trainer;
  auto rank = make_callback_communicator(2, 4, trainer.callbacks());
  CHECK(std::string(rank->kind()) == "callback");
  CHECK(rank->rank() == 2);
  CHECK(rank->size() == 4);
  sum(*rank, {1.0});
  trainer.answer = SYNCNORM_NCCL_ERROR;
  check_failed(outcome_of([&] { sum(*rank, {1.0}); }), SYNCNORM_NCCL_ERROR,
               {"sum callback of rank 2 of 4", "status 4"});
  trainer.answer = SYNCNORM_OK;
  check_failed(outcome_of([&] { sum(*rank, {1.0}); }), SYNCNORM_NCCL_ERROR, {"sum callback"});
  check_failed(outcome_of([&] { rank->split(0, 0); }), SYNCNORM_NCCL_ERROR, {"sum callback"});
  check_failed(outcome_of([&] { rank->poll(); }), SYNCNORM_NCCL_ERROR, {"sum callback"});
  CHECK(trainer.sums == 2);
  CHECK(trainer.splits == 0);
}

TEST_CASE("a status that does not exist becomes an internal error") {
  Trainer trainer;
  trainer.answer = static_cast<syncnorm_status>(14);
  auto rank = make_callback_communicator(0, 1, trainer.callbacks());
  check_failed(outcome_of([&] { sum(*rank, {1.0}); }), SYNCNORM_INTERNAL, {"unknown status", "14"});
}

TEST_CASE("a failed split fails the communicator") {
  Trainer trainer;
  auto rank = make_callback_communicator(0, 1, trainer.callbacks());
  trainer.answer = SYNCNORM_TIMEOUT;
  check_failed(outcome_of([&] { rank->split(0, 0); }), SYNCNORM_TIMEOUT,
               {"split callback of rank 0"});
  check_failed(outcome_of([&] { rank->poll(); }), SYNCNORM_TIMEOUT, {"split callback of rank 0"});
}

TEST_CASE("a split that makes no sense is refused and its context released") {
  Trainer part;
  Trainer trainer;
  trainer.part = &part;
  trainer.part_rank = 3;
  trainer.part_size = 3;
  auto rank = make_callback_communicator(0, 1, trainer.callbacks());
  check_failed(outcome_of([&] { rank->split(0, 0); }), SYNCNORM_INTERNAL, {"rank 3 of 3"});
  CHECK(part.releases == 1);
  CHECK(trainer.releases == 0);
}

TEST_CASE("every context is released once, by the handle that owns it") {
  Trainer part;
  Trainer trainer;
  trainer.part = &part;
  {
    auto rank = make_callback_communicator(0, 1, trainer.callbacks());
    auto half = rank->split(0, 0);
    CHECK(sum(*half, {5.0})[0] == 5.0);
    CHECK(part.sums == 1);
    rank.reset();
    CHECK(trainer.releases == 1);
    CHECK(part.releases == 0);
  }
  CHECK(trainer.releases == 1);
  CHECK(part.releases == 1);
}

TEST_CASE("a context without release is left alone") {
  Trainer trainer;
  syncnorm_callbacks callbacks = trainer.callbacks();
  callbacks.release = nullptr;
  make_callback_communicator(0, 1, callbacks).reset();
  CHECK(trainer.releases == 0);
}

TEST_CASE("without a split callback the group cannot be split, and still sums") {
  Trainer trainer;
  syncnorm_callbacks callbacks = trainer.callbacks();
  callbacks.split = nullptr;
  auto rank = make_callback_communicator(0, 1, callbacks);
  check_failed(outcome_of([&] { rank->split(0, 0); }), SYNCNORM_UNSUPPORTED, {"split callback"});
  CHECK(sum(*rank, {2.0})[0] == 2.0);
}

TEST_CASE("memory goes to the callback where its mask says so") {
  Trainer trainer;
  syncnorm_callbacks callbacks = trainer.callbacks();
  callbacks.device_memory = 1 << SYNCNORM_CUDA;
  auto rank = make_callback_communicator(0, 1, callbacks);
  CHECK(rank->device_memory() == 1 << SYNCNORM_CUDA);
  double src = 1.0;
  double dst = 0.0;
  int stream = 0;
  rank->sum(&src, &dst, 1, SYNCNORM_CUDA, &stream);
  CHECK(trainer.stream == &stream);
  check_failed(outcome_of([&] { rank->sum(&src, &dst, 1, SYNCNORM_CPU, nullptr); }),
               SYNCNORM_UNSUPPORTED, {"device 0"});
  CHECK(trainer.sums == 1);
}

TEST_CASE("only the trainer can wait for a stream of its own") {
  Trainer trainer;
  syncnorm_callbacks callbacks = trainer.callbacks();
  make_callback_communicator(0, 1, callbacks)->wait(nullptr, 1.0);  // of host memory: at once
  callbacks.device_memory = 1 << SYNCNORM_CUDA;
  auto rank = make_callback_communicator(0, 1, callbacks);
  check_failed(outcome_of([&] { rank->wait(nullptr, 1.0); }), SYNCNORM_UNSUPPORTED,
               {"cudaStreamSynchronize"});
}

// It cannot interrupt the trainer's function: the call under way ends as that function ends.
TEST_CASE("abort lets the call under way end and refuses the next") {
  struct Slow {
    std::promise<void> entered;
    std::promise<void> leave;
  } slow;
  const syncnorm_sum_fn wait_inside = [](void* context, const double* src, double* dst,
                                         std::int64_t, void*) {
    auto& self = *static_cast<Slow*>(context);
    self.entered.set_value();
    self.leave.get_future().wait();
    *dst = *src;
    return SYNCNORM_OK;
  };
  auto rank = make_callback_communicator(
      0, 1, {sizeof(syncnorm_callbacks), &slow, wait_inside, nullptr, nullptr, 0});
  Outcome under_way;
  std::thread caller([&] { under_way = outcome_of([&] { sum(*rank, {1.0}); }); });
  slow.entered.get_future().wait();
  rank->abort("enough");
  check_failed(outcome_of([&] { rank->poll(); }), SYNCNORM_INTERNAL, {"enough"});
  slow.leave.set_value();
  caller.join();
  CHECK(!under_way);
  check_failed(outcome_of([&] { sum(*rank, {1.0}); }), SYNCNORM_INTERNAL, {"enough"});
}

TEST_CASE("wrong callbacks are refused, and nothing is owned") {
  Trainer trainer;
  const auto make = [](int rank, int size, const syncnorm_callbacks& callbacks) {
    return outcome_of([&] { make_callback_communicator(rank, size, callbacks); });
  };
  const syncnorm_callbacks good = trainer.callbacks();
  check_failed(make(0, 0, good), SYNCNORM_INVALID_ARGUMENT, {"rank 0 of 0"});
  check_failed(make(2, 2, good), SYNCNORM_INVALID_ARGUMENT, {"rank 2 of 2"});
  check_failed(make(-1, 2, good), SYNCNORM_INVALID_ARGUMENT, {"rank -1 of 2"});
  syncnorm_callbacks wrong = good;
  wrong.sum = nullptr;
  check_failed(make(0, 1, wrong), SYNCNORM_INVALID_ARGUMENT, {"sum callback is NULL"});
  wrong = good;
  wrong.device_memory = 1 << 5;
  check_failed(make(0, 1, wrong), SYNCNORM_INVALID_ARGUMENT, {"device_memory is 32"});
  CHECK(trainer.releases == 0);
}

}  // namespace
