// Fuzz target: communicators of threads and of callbacks, in any order of calls.
//
// An input is a sequence of calls on a few handles. Ranks of a threads group either call together,
// each in a thread of its own, or one calls alone and meets a short deadline. What must hold:
//   - Calls that the whole group makes alike succeed, with the sum of what the ranks gave.
//   - The first failure of a group stays: later calls fail with the same status, and poll reports
//   it.
//   - What is refused leaves the group healthy; handles are written only on success.
//   - A callback's context is released exactly once.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "input.hpp"
#include "require.hpp"
#include "syncnorm/syncnorm.h"

namespace {

using fuzz::Input;
using fuzz::StructBlock;

constexpr int kMostCalls = 24;
constexpr int kMostHandles = 24;
constexpr int kMostValues = 600;  // more than the block of values that are added at a time
constexpr double kShort = 0.001;  // for groups in which a rank calls alone
constexpr double kAmple = 60.0;

// The sum callback of a group of `size` ranks that hold the same.
struct Context {
  int size = 1;
  std::uint8_t fault = 0;  // of the next call
  std::int32_t value = 0;  // a status, a rank or a size, as the fault is
  syncnorm_comm* comm = nullptr;
  int* live = nullptr;

  static syncnorm_status sum(void* context, const double* src, double* dst, std::int64_t count,
                             void*) {
    const auto& self = *static_cast<const Context*>(context);
    if (self.fault == 1) return static_cast<syncnorm_status>(self.value);
    if (self.fault == 2) syncnorm_comm_abort(self.comm, "inside the sum");
    if (self.fault == 3) syncnorm_comm_poll(self.comm);
    for (std::int64_t i = 0; i < count; ++i) dst[i] = self.size * src[i];
    return SYNCNORM_OK;
  }
  static syncnorm_status split(void* context, std::int32_t color, std::int32_t, void** new_context,
                               std::int32_t* new_rank, std::int32_t* new_size) {
    const auto& self = *static_cast<const Context*>(context);
    if (self.fault == 1) return static_cast<syncnorm_status>(self.value);
    if (self.fault == 2) *new_rank = self.value, *new_size = 1;
    if (self.fault == 3) *new_rank = 0, *new_size = self.value;
    if (self.fault == 0) *new_rank = 0, *new_size = self.size;
    if (color >= 0) {
      *new_context = new Context{self.size, 0, 0, nullptr, self.live};
      ++*self.live;
    }
    return SYNCNORM_OK;
  }
  static void release(void* context) {
    auto* self = static_cast<Context*>(context);
    if (self == nullptr) return;  // of a split callback that wrote none
    --*self->live;
    delete self;
  }
};

// The ranks of one group, and what the group must report. OK: healthy.
struct Group {
  std::vector<syncnorm_comm*> ranks;  // NULL: destroyed
  std::vector<Context*> contexts;     // empty: a threads group
  double timeout_s = kAmple;
  syncnorm_status failure = SYNCNORM_OK;
  bool can_split = true;

  bool threads() const { return contexts.empty(); }
  void fail(syncnorm_status status) {
    if (failure == SYNCNORM_OK) failure = status;
  }
};

class Session {
 public:
  explicit Session(Input& input) : input_(input) {}
  ~Session() {
    for (auto& group : groups_)
      for (syncnorm_comm* rank : group->ranks) syncnorm_comm_destroy(rank);
    FUZZ_REQUIRE(live_contexts_ == 0);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void run() {
    for (int i = 0; i < kMostCalls && !input_.empty(); ++i) call();
  }

 private:
  void call() {
    const int kind = input_.index(16);
    if (kind == 0) return create_threads();
    if (kind == 1) return create_callback();
    if (kind == 2) return refused();
    if (groups_.empty()) return kind % 2 == 0 ? create_threads() : create_callback();
    Group& group = *groups_[input_.byte() % groups_.size()];
    const std::size_t rank = input_.byte() % group.ranks.size();
    switch (kind) {
      case 3:
      case 4:
      case 5: return sum_together(group);
      case 6: return sum_alone(group, rank);
      case 7:
      case 8: return split_together(group);
      case 9: return split_alone(group, rank);
      case 10: return abort(group, rank);
      case 11: return destroy(group, rank);
      case 12: return refused_on(group, rank);
      case 13: return wait(group, rank);
      default: return look(group, rank);
    }
  }

  // A sum or a split by one rank, where the others do not come.
  bool alone(const Group& group) const { return group.threads() && group.ranks.size() > 1; }
  bool complete(const Group& group) const {
    return std::all_of(group.ranks.begin(), group.ranks.end(),
                       [](auto* r) { return r != nullptr; });
  }

  // The status of a call that reaches the group.
  void expect(Group& group, syncnorm_status status) {
    if (group.failure == SYNCNORM_OK) {
      FUZZ_REQUIRE(status == SYNCNORM_OK);
    } else {
      FUZZ_REQUIRE(status != SYNCNORM_OK);
      FUZZ_REQUIRE(status == group.failure);
      FUZZ_REQUIRE(std::strlen(syncnorm_last_error()) > 0);
      FUZZ_REQUIRE(std::strlen(syncnorm_last_error()) < 1024);
    }
  }

  int handles() const {
    std::size_t count = 0;
    for (const auto& group : groups_) count += group->ranks.size();
    return static_cast<int>(count);
  }

  // ---------------------------------------------------------------- create

  void create_threads() {
    const int n = 1 + input_.index(4);
    if (handles() + n > kMostHandles) return;
    auto group = std::make_unique<Group>();
    group->timeout_s = input_.rarely(3) ? kShort : kAmple;
    group->ranks.resize(static_cast<std::size_t>(n));
    FUZZ_REQUIRE(syncnorm_comm_create_threads(n, group->timeout_s, group->ranks.data()) ==
                 SYNCNORM_OK);
    groups_.push_back(std::move(group));
  }

  void create_callback() {
    const int size = 1 + input_.index(4);
    if (handles() + 1 > kMostHandles) return;
    syncnorm_callbacks callbacks = SYNCNORM_CALLBACKS_INIT;
    auto context = std::make_unique<Context>(Context{size, 0, 0, nullptr, &live_contexts_});
    callbacks.context = context.get();
    callbacks.sum = &Context::sum;
    callbacks.split = input_.rarely(4) ? nullptr : &Context::split;
    callbacks.release = &Context::release;
    std::int32_t rank = input_.index(size);
    std::int32_t claimed = size;
    if (input_.rarely(8)) rank = input_.hostile_int(), claimed = input_.hostile_int();
    if (input_.rarely(8)) callbacks.sum = nullptr;
    if (input_.rarely(8)) callbacks.device_memory = input_.hostile_int();
    if (input_.rarely(8)) callbacks.struct_size = input_.hostile_struct_size(callbacks.struct_size);
    StructBlock<syncnorm_callbacks> block(callbacks);
    syncnorm_comm* comm = canary();
    const syncnorm_status status = syncnorm_comm_create_callback(rank, claimed, block.get(), &comm);
    if (status != SYNCNORM_OK) {
      FUZZ_REQUIRE(status == SYNCNORM_INVALID_ARGUMENT || status == SYNCNORM_UNSUPPORTED);
      FUZZ_REQUIRE(comm == canary());
      return;
    }
    FUZZ_REQUIRE(comm != canary() && rank >= 0 && rank < claimed);
    ++live_contexts_;
    if (callbacks.device_memory != 0 && (callbacks.device_memory & 1) == 0) {
      syncnorm_comm_destroy(comm);  // sums no host memory
      context.release();
      return;
    }
    auto group = std::make_unique<Group>();
    context->comm = comm;
    group->can_split = callbacks.split != nullptr;
    group->ranks.push_back(comm);
    group->contexts.push_back(context.release());
    groups_.push_back(std::move(group));
  }

  static syncnorm_comm* canary() {
    static char byte;
    return reinterpret_cast<syncnorm_comm*>(&byte);
  }

  // ---------------------------------------------------------------- calls by every rank

  // Calls body(rank) for every rank, each in its thread.
  template <class Body>
  static std::vector<syncnorm_status> together(const Group& group, Body body) {
    std::vector<syncnorm_status> status(group.ranks.size(), SYNCNORM_OK);
    std::vector<std::thread> threads;
    for (std::size_t r = 1; r < group.ranks.size(); ++r)
      threads.emplace_back([&, r] { status[r] = body(r); });
    status[0] = body(0);
    for (std::thread& thread : threads) thread.join();
    return status;
  }

  void sum_together(Group& group) {
    if (!complete(group)) return sum_alone(group, 0);
    const std::int64_t count = input_.raw<std::uint16_t>() % (kMostValues + 1);
    const bool differ = group.ranks.size() > 1 && input_.rarely(6);
    if (differ && group.timeout_s == kShort) return;
    if (!group.threads()) arm(*group.contexts[0]);
    const double factor = group.threads() ? 1 : group.contexts[0]->size;
    double sum_of_ranks = 0;
    for (std::size_t r = 0; r < group.ranks.size(); ++r) sum_of_ranks += static_cast<double>(r + 1);
    std::vector<std::vector<double>> results(group.ranks.size());
    const auto status = together(group, [&](std::size_t r) {
      const auto length = static_cast<std::size_t>(count) + (differ && r == 0 ? 1 : 0);
      std::vector<double> values(length);
      for (std::size_t i = 0; i < length; ++i)
        values[i] = static_cast<double>(r + 1) * static_cast<double>(i);
      results[r].resize(length);
      return syncnorm_comm_sum(group.ranks[r], values.data(), results[r].data(),
                               static_cast<std::int64_t>(length), SYNCNORM_CPU, nullptr);
    });
    if (differ) group.fail(SYNCNORM_DESYNC);
    if (!group.threads()) {
      Context& context = *group.contexts[0];
      const std::uint8_t fault = std::exchange(context.fault, std::uint8_t{0});
      if (fault == 2 && group.failure == SYNCNORM_OK) {  // aborted inside: this call may succeed
        group.fail(SYNCNORM_INTERNAL);
        return;
      }
      if (fault == 1 && context.value == SYNCNORM_OK) return;  // it has written nothing
      if (fault == 1) group.fail(reported(context.value));
    }
    if (!settle(group, status)) return;
    for (const auto& result : results)
      for (std::size_t i = 0; i < result.size(); ++i)
        FUZZ_REQUIRE(result[i] == factor * sum_of_ranks * static_cast<double>(i));
  }

  void split_together(Group& group) {
    if (!complete(group) || handles() + static_cast<int>(group.ranks.size()) > kMostHandles) return;
    if (!group.threads()) return split_callback(group);
    const std::size_t size = group.ranks.size();
    std::vector<std::int32_t> colors(size), keys(size);
    for (std::size_t r = 0; r < size; ++r) {
      colors[r] = input_.rarely(8) ? input_.hostile_int() : input_.index(2);
      keys[r] = input_.hostile_int();
    }
    std::vector<syncnorm_comm*> parts(size, canary());
    const auto status = together(group, [&](std::size_t r) {
      return syncnorm_comm_split(group.ranks[r], colors[r], keys[r], &parts[r]);
    });
    const bool ok = settle(group, status);
    for (std::size_t r = 0; r < size; ++r) {
      if (!ok) {
        FUZZ_REQUIRE(status[r] == SYNCNORM_OK || parts[r] == canary());
        if (status[r] == SYNCNORM_OK) syncnorm_comm_destroy(parts[r]);
        continue;
      }
      FUZZ_REQUIRE((parts[r] == nullptr) == (colors[r] < 0));
    }
    if (ok) keep_parts(group, colors, keys, parts);
  }

  void split_callback(Group& group) {
    Context& context = *group.contexts[0];
    const std::int32_t color = input_.rarely(4) ? -1 - input_.byte() : input_.byte();
    arm(context);
    syncnorm_comm* part = canary();
    const syncnorm_status status =
        syncnorm_comm_split(group.ranks[0], color, input_.hostile_int(), &part);
    const std::uint8_t fault = std::exchange(context.fault, std::uint8_t{0});
    if (!group.can_split) {
      FUZZ_REQUIRE(status == SYNCNORM_UNSUPPORTED && part == canary());
      return;
    }
    if (fault == 1 && context.value != SYNCNORM_OK) group.fail(reported(context.value));
    const bool right =
        fault == 0 || (fault == 2 && context.value == 0) || (fault == 3 && context.value > 0);
    if (color >= 0 && !right) group.fail(SYNCNORM_INTERNAL);
    expect(group, status);
    if (status != SYNCNORM_OK) {
      FUZZ_REQUIRE(part == canary());
      return;
    }
    FUZZ_REQUIRE((part == nullptr) == (color < 0));
    syncnorm_comm_destroy(part);
  }

  // What a communicator reports of a callback that returned `value`.
  static syncnorm_status reported(std::int32_t value) {
    const bool known = value > SYNCNORM_OK && value <= SYNCNORM_RANK_LOST;
    return known ? static_cast<syncnorm_status>(value) : SYNCNORM_INTERNAL;
  }

  void keep_parts(const Group& group, const std::vector<std::int32_t>& colors,
                  const std::vector<std::int32_t>& keys, std::vector<syncnorm_comm*>& parts) {
    for (std::size_t first = 0; first < parts.size(); ++first) {
      if (parts[first] == nullptr) continue;
      std::vector<std::size_t> members;
      for (std::size_t r = first; r < parts.size(); ++r)
        if (parts[r] != nullptr && colors[r] == colors[first]) members.push_back(r);
      std::stable_sort(members.begin(), members.end(),
                       [&](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
      auto part = std::make_unique<Group>();
      part->timeout_s = group.timeout_s;
      for (const std::size_t r : members) part->ranks.push_back(std::exchange(parts[r], nullptr));
      for (std::size_t r = 0; r < members.size(); ++r) look(*part, r);
      groups_.push_back(std::move(part));
    }
  }

  // Whether all succeeded, as they must if the group was healthy.
  bool settle(Group& group, const std::vector<syncnorm_status>& status) {
    const bool ok = std::all_of(status.begin(), status.end(),
                                [](syncnorm_status s) { return s == SYNCNORM_OK; });
    // The machine may be slower than the short deadline.
    if (!ok && group.timeout_s == kShort) group.fail(SYNCNORM_TIMEOUT);
    for (const syncnorm_status each : status) expect(group, each);
    return ok;
  }

  // A fault in the next call of a callback.
  void arm(Context& context) {
    if (!input_.rarely(3)) return;
    context.fault = static_cast<std::uint8_t>(1 + input_.index(3));
    context.value = input_.hostile_int();
  }

  // ---------------------------------------------------------------- calls by one rank

  void sum_alone(Group& group, std::size_t rank) {
    syncnorm_comm* comm = group.ranks[rank];
    if (comm == nullptr ||
        (alone(group) && group.failure == SYNCNORM_OK && group.timeout_s != kShort))
      return;
    double from[3] = {1, 2, 3}, to[3] = {7, 7, 7};
    const syncnorm_status status = syncnorm_comm_sum(comm, from, to, 3, SYNCNORM_CPU, nullptr);
    if (alone(group)) group.fail(SYNCNORM_TIMEOUT);
    expect(group, status);
  }

  void split_alone(Group& group, std::size_t rank) {
    syncnorm_comm* comm = group.ranks[rank];
    if (comm == nullptr || !alone(group) ||
        (group.failure == SYNCNORM_OK && group.timeout_s != kShort))
      return;
    syncnorm_comm* part = canary();
    const syncnorm_status status = syncnorm_comm_split(comm, input_.hostile_int(), 0, &part);
    group.fail(SYNCNORM_TIMEOUT);
    expect(group, status);
    FUZZ_REQUIRE(part == canary());
  }

  void abort(Group& group, std::size_t rank) {
    std::string reason;
    const int length = input_.flag() ? input_.byte() : 3 * input_.byte();
    const char letter = static_cast<char>(input_.byte() | 1);
    reason.assign(static_cast<std::size_t>(length), letter);
    const bool standard = input_.flag();
    const syncnorm_status status =
        syncnorm_comm_abort(group.ranks[rank], standard ? nullptr : reason.c_str());
    if (group.ranks[rank] == nullptr) {
      FUZZ_REQUIRE(status == SYNCNORM_INVALID_ARGUMENT);
      return;
    }
    FUZZ_REQUIRE(status == SYNCNORM_OK);
    group.fail(SYNCNORM_INTERNAL);
    expect(group, syncnorm_comm_poll(group.ranks[rank]));
  }

  void destroy(Group& group, std::size_t rank) {
    if (group.ranks[rank] == nullptr) return;
    syncnorm_comm_destroy(std::exchange(group.ranks[rank], nullptr));
    group.fail(SYNCNORM_RANK_LOST);
    syncnorm_comm_destroy(nullptr);
  }

  void look(Group& group, std::size_t rank) {
    syncnorm_comm* comm = group.ranks[rank];
    StructBlock<syncnorm_comm_info> info(SYNCNORM_COMM_INFO_INIT);
    if (comm == nullptr) {
      FUZZ_REQUIRE(syncnorm_comm_query(comm, info.get()) == SYNCNORM_INVALID_ARGUMENT);
      FUZZ_REQUIRE(syncnorm_comm_poll(comm) == SYNCNORM_INVALID_ARGUMENT);
      return;
    }
    expect(group, syncnorm_comm_poll(comm));
    FUZZ_REQUIRE(syncnorm_comm_query(comm, info.get()) == SYNCNORM_OK);
    FUZZ_REQUIRE(std::strcmp(info.get()->kind, group.threads() ? "threads" : "callback") == 0);
    if (group.threads()) {
      FUZZ_REQUIRE(info.get()->rank == static_cast<int>(rank));
      FUZZ_REQUIRE(info.get()->size == static_cast<int>(group.ranks.size()));
    }
  }

  void wait(Group& group, std::size_t rank) {
    const double timeout_s = input_.hostile_double();
    const syncnorm_status status = syncnorm_comm_wait(group.ranks[rank], nullptr, timeout_s);
    const bool right = group.ranks[rank] != nullptr && timeout_s > 0 && timeout_s <= 1e9;
    if (!right) FUZZ_REQUIRE(status == SYNCNORM_INVALID_ARGUMENT);
  }

  // ---------------------------------------------------------------- what must be refused

  void refused_on(Group& group, std::size_t rank) {
    syncnorm_comm* comm = group.ranks[rank];
    double values[2] = {1, 2}, result[2] = {7, 7};
    syncnorm_status status = SYNCNORM_INVALID_ARGUMENT;
    switch (input_.index(6)) {
      case 0:
        status = syncnorm_comm_sum(comm, values, result, -1 - input_.byte(), SYNCNORM_CPU, nullptr);
        break;
      case 1:
        status = syncnorm_comm_sum(comm, nullptr, result,
                                   std::max<std::int64_t>(1, input_.hostile_size()), SYNCNORM_CPU,
                                   nullptr);
        break;
      case 2: status = syncnorm_comm_sum(comm, values, values, 2, SYNCNORM_CPU, nullptr); break;
      case 3: status = syncnorm_comm_split(comm, 0, 0, nullptr); break;
      case 4: {
        std::int32_t device = input_.hostile_int();
        if (device == SYNCNORM_CPU || !group.threads()) device = 7;
        status = syncnorm_comm_sum(comm, values, result, 2, static_cast<syncnorm_device>(device),
                                   nullptr);
        break;
      }
      default: {
        StructBlock<syncnorm_comm_info> info(SYNCNORM_COMM_INFO_INIT);
        std::memset(info.bytes(), 0xab, info.kBytes);
        const std::size_t size = input_.hostile_struct_size(sizeof(syncnorm_comm_info));
        info.get()->struct_size = size;
        const std::vector<unsigned char> before(info.bytes(), info.bytes() + info.kBytes);
        const bool ok = syncnorm_comm_query(comm, info.get()) == SYNCNORM_OK;
        const std::size_t written = ok ? std::min(size, sizeof(syncnorm_comm_info)) : 0;
        FUZZ_REQUIRE(std::memcmp(info.bytes() + written, before.data() + written,
                                 info.kBytes - written) == 0);
      }
    }
    FUZZ_REQUIRE(status == SYNCNORM_INVALID_ARGUMENT || status == SYNCNORM_UNSUPPORTED);
    FUZZ_REQUIRE(result[0] == 7 && result[1] == 7);
    if (comm != nullptr) expect(group, syncnorm_comm_poll(comm));
  }

  void refused() {
    std::array<syncnorm_comm*, 4> comms;
    comms.fill(canary());
    syncnorm_status status = SYNCNORM_OK;
    switch (input_.index(7)) {
      case 0: {
        const std::int32_t n = std::min(input_.hostile_int(), 0);
        status = syncnorm_comm_create_threads(n, kAmple, comms.data());
        break;
      }
      case 1: {
        double timeout_s = input_.hostile_double();
        if (timeout_s > 0 && timeout_s <= 1e9) timeout_s = -timeout_s;
        status = syncnorm_comm_create_threads(2, timeout_s, comms.data());
        break;
      }
      case 2: status = syncnorm_comm_create_threads(2, kAmple, nullptr); break;
      case 3: status = syncnorm_comm_create_callback(0, 1, nullptr, comms.data()); break;
      case 4: status = syncnorm_comm_borrow_nccl(nullptr, nullptr, comms.data()); break;
      case 5: {
        StructBlock<syncnorm_nccl_options> options(SYNCNORM_NCCL_OPTIONS_INIT);
        options.get()->struct_size = input_.hostile_struct_size(sizeof(syncnorm_nccl_options));
        options.get()->init_timeout_s = input_.hostile_double();
        options.get()->sum_timeout_s = input_.hostile_double();
        status = syncnorm_comm_create_nccl_all(1, nullptr, options.get(), comms.data());
        break;
      }
      default: {
        const std::uint8_t id[SYNCNORM_NCCL_ID_SIZE] = {};
        status = syncnorm_comm_create_nccl(id, input_.hostile_int(), input_.hostile_int(),
                                           input_.hostile_int(), nullptr, comms.data());
      }
    }
    FUZZ_REQUIRE(status == SYNCNORM_INVALID_ARGUMENT || status == SYNCNORM_UNSUPPORTED);
    for (syncnorm_comm* comm : comms) FUZZ_REQUIRE(comm == canary());
  }

  Input& input_;
  std::vector<std::unique_ptr<Group>> groups_;
  int live_contexts_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  Session(input).run();
  return 0;
}
