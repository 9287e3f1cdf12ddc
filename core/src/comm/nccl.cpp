#include "comm/nccl.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "comm/exclusive_use.hpp"
#include "comm/interrupt.hpp"
#include "comm/nccl_watch.hpp"
#include "comm/process_life.hpp"
#include "support/cuda_runtime.hpp"
#include "support/error.hpp"
#include "support/kernel_list.hpp"

namespace syncnorm {
namespace nccl {
namespace {

constexpr double kLongestPeriod = 0.1;  // s: between two looks of the watchdog
constexpr double kLooksPerTimeout = 10.0;

std::unique_ptr<Communicator> make_owned(ConnectionPtr connection, const Settings& settings);

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(ConnectionPtr connection, const Settings& settings)
      : connection_(std::move(connection)), settings_(settings) {}

  ~NcclCommunicator() override { connection_->close(); }

  void be_watched() {
    const double timeout_s = settings_.sum_timeout_s;
    if (timeout_s < 0) return;
    const double period_s = std::min(kLongestPeriod, timeout_s / kLooksPerTimeout);
    event_watch_ = std::make_shared<EventWatch>(connection_, history_);
    sum_watch_ = std::make_shared<SumWatch>(connection_, history_, timeout_s);
    watch(WatchThread::kDriver, event_watch_, period_s);
    watch(WatchThread::kDeadlines, sum_watch_, period_s);
  }

  int rank() const noexcept override { return place().rank; }
  int size() const noexcept override { return place().size; }
  const char* kind() const noexcept override { return "nccl"; }
  int device_memory() const noexcept override { return 1 << SYNCNORM_CUDA; }

  void sum(const double* src, double* dst, std::int64_t count, syncnorm_device device,
           void* stream) override {
    if (device != SYNCNORM_CUDA) {
      fail(SYNCNORM_UNSUPPORTED, text(place()), " sums memory of CUDA devices only, got device ",
           static_cast<int>(device), ": use a threads or callback communicator for host memory");
    }
    const ExclusiveUse use(in_use_, rank());
    require_usable();
    if (count == 0) return;
    const DeviceGuard guard(place().device);
    auto* const on = static_cast<cudaStream_t>(stream);
    // A graph holds its own order: an event from outside it could not be waited for in it.
    const bool captured = is_capturing(on);
    if (!captured) history_->make_wait(on);
    const SumHistory::UnderWay under_way(*history_, count);
    all_reduce(src, dst, count, stream);
    if (!captured) remember(on);
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    const ExclusiveUse use(in_use_, rank());
    require_usable();
    ConnectionPtr part = nccl::split(*connection_, color, key, settings_);
    if (part == nullptr) return nullptr;
    return make_owned(std::move(part), settings_);
  }

  void poll() override {
    require_process_alive();
    connection_->poll();
  }

  void wait(void* stream, double timeout_s) override {
    const ExclusiveUse use(in_use_, rank());
    require_usable();
    const DeviceGuard guard(place().device);
    auto* const on = static_cast<cudaStream_t>(stream);
    check(!is_capturing(on), text(place()),
          ": the stream to wait for is being captured; wait for the graph where it is launched");
    CudaEvent all;
    all.record(on);
    const Deadline deadline(timeout_s);
    InterruptCheck interrupt;
    for (Backoff backoff; !all.done(); backoff.pause()) {
      connection_->poll();
      if (deadline.passed()) time_out(deadline);
      if (interrupt.interrupted()) connection_->fail_interrupted("a wait for its stream");
    }
    connection_->poll();
  }

  void abort(const std::string& reason) noexcept override {
    if (process_is_over()) return;
    connection_->fail(SYNCNORM_INTERNAL, concat(text(place()), " was aborted: ", reason));
  }

 private:
  const Place& place() const noexcept { return connection_->place(); }

  void require_usable() {
    require_process_alive();
    connection_->rethrow_failure();
  }

  void all_reduce(const double* src, double* dst, std::int64_t count, void* stream) {
    const Api& api = connection_->api();
    connection_->call("ncclAllReduce", Deadline(settings_.init_timeout_s), [&](Comm comm) {
      return api.all_reduce(src, dst, static_cast<std::size_t>(count), kFloat64, kSum, comm,
                            stream);
    });
  }

  // The other ranks count on the sum: what fails from here on fails the group.
  void remember(cudaStream_t stream) {
    try {
      history_->add(stream);
    } catch (const Error& error) {
      connection_->fail_and_throw(error.status(), concat(text(place()), ": ", error.what()));
    }
  }

  [[noreturn]] void time_out(const Deadline& deadline) {
    history_->retire();
    const std::optional<PendingSum> sum = history_->oldest_pending();
    connection_->fail_and_throw(
        SYNCNORM_TIMEOUT,
        concat(text(place()), " waited ", deadline.seconds(), " s for its stream; ",
               sum ? concat("not done: ", text(*sum),
                            ". A rank of the group did not make the same call, or has died")
                   : "its sums are done: other work of the stream, or a captured graph, is not"));
  }

  const ConnectionPtr connection_;
  const Settings settings_;
  const std::shared_ptr<SumHistory> history_ = std::make_shared<SumHistory>();
  // Looked at as long as they are held here.
  std::shared_ptr<EventWatch> event_watch_;
  std::shared_ptr<SumWatch> sum_watch_;
  std::atomic<bool> in_use_{false};
};

std::unique_ptr<Communicator> make_owned(ConnectionPtr connection, const Settings& settings) {
  auto communicator = std::make_unique<NcclCommunicator>(std::move(connection), settings);
  communicator->be_watched();
  return communicator;
}

void check_devices(const std::vector<int>& devices) {
  check(!devices.empty(), "NCCL group: the number of ranks is 0, expected at least 1");
  for (std::size_t i = 0; i < devices.size(); ++i) {
    check_device(devices[i]);
    const auto end = devices.begin() + static_cast<std::ptrdiff_t>(i);
    const auto same = std::find(devices.begin(), end, devices[i]);
    check(same == end, "NCCL group: ranks ", same - devices.begin(), " and ", i,
          " are both on device ", devices[i], ", expected a device of its own for every rank");
  }
}

void load_kernels(int device) {
  const OutsideCaptures outside;
  cuda::load_kernels(device);
}

UniqueId unique_id(const Api& api, const std::uint8_t* bytes) {
  if (bytes != nullptr) {
    UniqueId id{};
    std::memcpy(id.internal, bytes, sizeof(id.internal));
    return id;
  }
  check(std::getenv("NCCL_COMM_ID") != nullptr,
        "NCCL communicator: no id was given and the environment variable NCCL_COMM_ID is not set, "
        "expected one of the two: an id of syncnorm_nccl_unique_id, or \"host:port\" of rank 0");
  return make_unique_id(api);  // holds that address
}

}  // namespace
}  // namespace nccl

void make_nccl_id(std::uint8_t* id) {
  const nccl::UniqueId made = nccl::make_unique_id(nccl::api());
  std::memcpy(id, made.internal, sizeof(made.internal));
}

std::unique_ptr<Communicator> make_nccl_communicator(const std::uint8_t* id, int rank, int size,
                                                     int device,
                                                     const syncnorm_nccl_options& options) {
  check(size >= 1 && rank >= 0 && rank < size, "NCCL communicator: got rank ", rank, " of ", size,
        ", expected 0 <= rank < size");
  const nccl::Settings settings = nccl::read_settings(options);
  const nccl::Api& api = nccl::api();
  require_process_alive();
  nccl::check_device(device);
  observe_process_life();
  const nccl::UniqueId unique = nccl::unique_id(api, id);
  nccl::load_kernels(device);
  return nccl::make_owned(nccl::create(api, unique, {rank, size, device}, settings), settings);
}

std::vector<std::unique_ptr<Communicator>> make_nccl_group(const std::vector<int>& devices,
                                                           const syncnorm_nccl_options& options) {
  const nccl::Settings settings = nccl::read_settings(options);
  const nccl::Api& api = nccl::api();
  require_process_alive();
  nccl::check_devices(devices);
  observe_process_life();
  for (const int device : devices) nccl::load_kernels(device);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (auto& connection : nccl::create_all(api, devices, settings)) {
    ranks.push_back(nccl::make_owned(std::move(connection), settings));
  }
  return ranks;
}

std::unique_ptr<Communicator> borrow_nccl_communicator(void* comm,
                                                       const syncnorm_nccl_options& options) {
  check(comm != nullptr, "the borrowed ncclComm_t is NULL, expected a communicator");
  const nccl::Settings settings = nccl::read_settings(options);
  const nccl::Api& api = nccl::api();
  require_process_alive();
  observe_process_life();
  nccl::ConnectionPtr connection = nccl::borrow(api, static_cast<nccl::Comm>(comm), settings);
  nccl::load_kernels(connection->place().device);
  return std::make_unique<nccl::NcclCommunicator>(std::move(connection), settings);
}

}  // namespace syncnorm
