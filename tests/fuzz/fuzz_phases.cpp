// Fuzz target: the phases and the one-call forms, on one rank.
//
// An input describes a shape, options, values, and a sequence of calls, each as a careful caller
// makes it or with one flaw. Buffers have their exact sizes, so that AddressSanitizer sees any
// access beyond them. What must hold:
//   - A call without a flaw succeeds, and gives the same bits with another number of threads.
//   - A call that fails writes nothing but the workspace, and launch.status on SYNCNORM_DESYNC.
//   - A call writes nothing but its outputs.
//   - The lengths and sizes that syncnorm_query_sizes returns are exact and do not overflow.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include "input.hpp"
#include "require.hpp"
#include "syncnorm/syncnorm.h"

namespace {

using fuzz::Input;
using fuzz::StructBlock;

// What is larger is only called where it must be refused.
constexpr std::int64_t kMostValues = 1 << 16;  // enough for several threads
constexpr std::int64_t kMostChannels = 126;
// Too small for any shape with more channels than kMostChannels.
constexpr std::size_t kSmallWorkspace = 4096;
constexpr int kMostCalls = 12;

enum Id {
  kX,
  kResidual,
  kMask,
  kWeight,
  kBias,
  kRunningMean,
  kRunningVar,
  kTracked,
  kY,
  kSaved,
  kDy,
  kDx,
  kDresidual,
  kDweight,
  kDbias,
  kWire,
  kTotal,
  kLocalVar,
  kCenterWire,
  kCenterTotal,
  kGradWire,
  kGradTotal,
  kGathered,
  kStatus,
  kWorkspace,
  kNone
};
constexpr int kBuffers = kNone;
using Ids = std::uint64_t;
constexpr Ids set_of(std::initializer_list<Id> ids) {
  Ids set = 0;
  for (const Id id : ids)
    if (id != kNone) set |= Ids{1} << id;
  return set;
}
constexpr bool contains(Ids set, int id) { return (set >> id & 1) != 0; }

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t operator()() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }

 private:
  std::uint64_t state_;
};

struct Format {
  std::size_t size;
  int exponent_bits;
  int mantissa_bits;
};
constexpr Format kFormats[] = {{2, 5, 10}, {2, 8, 7}, {4, 8, 23}, {8, 11, 52}};
constexpr Format kBytes = {1, 8, 0};

Format format_of(syncnorm_dtype dtype) {
  const bool known = dtype >= SYNCNORM_FLOAT16 && dtype <= SYNCNORM_FLOAT64;
  return kFormats[known ? dtype : SYNCNORM_FLOAT64];
}

enum class Fill { kZero, kUsual, kSpecial, kBits };

std::uint64_t element(const Format& format, Fill fill, Random& random) {
  const std::uint64_t bits = random();
  if (fill == Fill::kZero) return 0;
  if (fill == Fill::kBits || format.mantissa_bits == 0) return bits;
  const std::uint64_t top = (std::uint64_t{1} << format.exponent_bits) - 1;
  const std::uint64_t mantissa_mask = (std::uint64_t{1} << format.mantissa_bits) - 1;
  std::uint64_t exponent = (top >> 1) - 2 + (bits & 3);
  std::uint64_t mantissa = bits >> 8 & mantissa_mask;
  if (fill == Fill::kSpecial) switch (bits >> 4 & 15) {
      case 0: exponent = 0, mantissa = 0; break;                    // zero
      case 1: exponent = 0; break;                                  // denormal
      case 2: exponent = top, mantissa = 0; break;                  // infinity
      case 3: exponent = top, mantissa |= 1; break;                 // NaN
      case 4: exponent = top - 1, mantissa = mantissa_mask; break;  // the largest
      default: break;
    }
  const std::uint64_t sign = bits >> 63;
  return (sign << format.exponent_bits | exponent) << format.mantissa_bits | mantissa;
}

// Memory of its exact size. It begins `offset` bytes after a multiple of 64.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(block_); }

  void allocate(std::size_t bytes, std::size_t offset) {
    FUZZ_REQUIRE(posix_memalign(&block_, 64, bytes + offset) == 0);
    data_ = static_cast<unsigned char*>(block_) + offset;
    bytes_ = bytes;
  }
  void fill(const Format& format, Fill kind, Random& random) {
    for (std::size_t at = 0; at + format.size <= bytes_; at += format.size) {
      const std::uint64_t value = element(format, kind, random);
      std::memcpy(data_ + at, &value, format.size);
    }
  }

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void* block_ = nullptr;
  unsigned char* data_ = nullptr;
  std::size_t bytes_ = 0;
};

using Snapshot = std::array<std::vector<unsigned char>, kBuffers>;

// A group of `size` ranks that all hold what this one holds.
struct Peers {
  int size = 1;
  int fault = 0;
  syncnorm_status status = SYNCNORM_INTERNAL;
  syncnorm_comm* comm = nullptr;

  static syncnorm_status sum(void* context, const double* src, double* dst, std::int64_t count,
                             void* /*stream*/) {
    const auto& self = *static_cast<const Peers*>(context);
    if (self.fault == 1) return self.status;
    if (self.fault == 2) return SYNCNORM_OK;  // writes nothing
    for (std::int64_t i = 0; i < count; ++i) dst[i] = self.size * src[i];
    if (self.fault == 3 && count > 0) dst[count - 1] = -dst[0];
    if (self.fault == 4 && count > 2) dst[2] += 1;
    if (self.fault == 5) syncnorm_comm_abort(self.comm, nullptr);
    return SYNCNORM_OK;
  }
};

class Session {
 public:
  explicit Session(Input& input) : input_(input), random_(0) {}

  void run() {
    describe();
    query();
    choose_buffers();
    for (int i = 0; i < kMostCalls && !input_.empty(); ++i) call();
  }

 private:
  enum class Scale {
    kRefused,   // syncnorm_query_sizes refuses: so must every call
    kTooLarge,  // valid, but no buffers are made: every call must be refused for one that is
                // missing
    kReal
  };

  // ---------------------------------------------------------------- the problem

  void describe() {
    shape_ = SYNCNORM_SHAPE_INIT;
    const auto any_size = [&](int most) -> std::int64_t {
      return input_.index(1 + (input_.rarely(4) ? most : std::min(most, 8)));
    };
    const bool hostile = input_.rarely(4);
    shape_.n = hostile ? input_.hostile_size() : any_size(6);
    shape_.c = hostile ? input_.hostile_size() : any_size(kMostChannels);
    shape_.s = hostile ? input_.hostile_size() : any_size(70);
    shape_.dtype =
        static_cast<syncnorm_dtype>(input_.rarely(32) ? input_.hostile_int() : input_.index(4));
    shape_.layout =
        static_cast<syncnorm_layout>(input_.rarely(32) ? input_.hostile_int() : input_.index(2));
    options_ = SYNCNORM_OPTIONS_INIT;
    options_.weighting = static_cast<syncnorm_weighting>(input_.index(3));
    options_.eps_mode = static_cast<syncnorm_eps_mode>(input_.index(2));
    options_.variance_factor = static_cast<syncnorm_variance_factor>(input_.index(4));
    options_.grad_reduction = static_cast<syncnorm_grad_reduction>(input_.index(3));
    options_.centering = static_cast<syncnorm_centering>(input_.index(3));
    options_.activation = static_cast<syncnorm_activation>(input_.index(4));
    options_.in_place = input_.index(2);
    if (input_.flag()) options_.eps = input_.hostile_double();
    if (input_.flag()) options_.tag = input_.raw<std::uint64_t>();
    if (input_.rarely(4)) options_.momentum = SYNCNORM_MOMENTUM_CUMULATIVE;
    if (input_.rarely(4)) options_.negative_slope = input_.hostile_double();
    if (input_.rarely(8)) spoil(options_);
    if (input_.rarely()) shape_.struct_size = input_.hostile_struct_size(sizeof(shape_));
    if (input_.rarely()) options_.struct_size = input_.hostile_struct_size(sizeof(options_));
    if (input_.rarely(32)) unknown_member_ = true;
  }

  void spoil(syncnorm_options& options) {
    switch (input_.index(10)) {
      case 0: options.eps = input_.hostile_double(); break;
      case 1: options.momentum = input_.hostile_double(); break;
      case 2: options.negative_slope = input_.hostile_double(); break;
      case 3: options.weighting = static_cast<syncnorm_weighting>(input_.hostile_int()); break;
      case 4: options.eps_mode = static_cast<syncnorm_eps_mode>(input_.hostile_int()); break;
      case 5:
        options.variance_factor = static_cast<syncnorm_variance_factor>(input_.hostile_int());
        break;
      case 6:
        options.grad_reduction = static_cast<syncnorm_grad_reduction>(input_.hostile_int());
        break;
      case 7: options.centering = static_cast<syncnorm_centering>(input_.hostile_int()); break;
      case 8: options.activation = static_cast<syncnorm_activation>(input_.hostile_int()); break;
      default: options.in_place = input_.hostile_int();
    }
  }

  void query() {
    StructBlock<syncnorm_shape> shape(shape_);
    StructBlock<syncnorm_options> options(options_);
    if (unknown_member_) options.bytes()[sizeof(syncnorm_options) + 3] = 1;
    const auto device =
        input_.rarely(32) ? static_cast<syncnorm_device>(input_.hostile_int()) : SYNCNORM_CPU;
    StructBlock<syncnorm_sizes> room;
    std::memset(room.bytes(), 0xab, room.kBytes);
    std::size_t size = sizeof(syncnorm_sizes);
    if (input_.rarely()) size = input_.hostile_struct_size(size);
    room.get()->struct_size = size;
    std::vector<unsigned char> before(room.bytes(), room.bytes() + room.kBytes);
    const syncnorm_status status =
        syncnorm_query_sizes(shape.get(), options.get(), device, room.get());
    const bool refused = status != SYNCNORM_OK;
    const std::size_t written = refused ? 0 : std::min(size, sizeof(syncnorm_sizes));
    FUZZ_REQUIRE(
        std::memcmp(room.bytes() + written, before.data() + written, room.kBytes - written) == 0);

    sizes_ = SYNCNORM_SIZES_INIT;
    if (syncnorm_query_sizes(shape.get(), options.get(), SYNCNORM_CPU, &sizes_) != SYNCNORM_OK) {
      scale_ = Scale::kRefused;
      FUZZ_REQUIRE(refused);
      return;
    }
    FUZZ_REQUIRE(shape_.n >= 0 && shape_.c >= 0 && shape_.s >= 0);
    const std::int64_t c = shape_.c;
    FUZZ_REQUIRE(c <= std::int64_t{1} << 48);
    FUZZ_REQUIRE(sizes_.wire_length == 2 * c + 4);
    FUZZ_REQUIRE(sizes_.grad_wire_length == 2 * c + 2);
    FUZZ_REQUIRE(sizes_.saved_length == 3 * c + 2);
    FUZZ_REQUIRE(sizes_.center_wire_length == (centered() ? c + 2 + c % 2 : 0));
    FUZZ_REQUIRE(sizes_.workspace_size >= static_cast<std::size_t>(16 * (2 * c + 4)));
    const auto product = [](std::int64_t a, std::int64_t b) {
      if (a == 0 || b == 0) return std::int64_t{0};
      return a > kMostValues || b > kMostValues ? kMostValues + 1 : a * b;
    };
    const std::int64_t positions = product(shape_.n, shape_.s);
    const std::int64_t values = product(positions, shape_.c);
    masks_fit_ = positions <= kMostValues;
    const bool fits = values <= kMostValues && shape_.c <= kMostChannels;
    scale_ = fits ? Scale::kReal : Scale::kTooLarge;
    if (fits) FUZZ_REQUIRE(sizes_.workspace_size < std::size_t{1} << 26);
  }

  bool centered() const {
    return options_.centering == SYNCNORM_CENTER_ON ||
           (options_.centering == SYNCNORM_CENTER_AUTO && shape_.dtype == SYNCNORM_FLOAT64);
  }
  // What the library sees: the struct of an older caller does not have the member.
  bool in_place() const {
    constexpr std::size_t kBegin = offsetof(syncnorm_options, in_place);
    std::int32_t seen = 0;
    if (options_.struct_size > kBegin)
      std::memcpy(&seen, &options_.in_place, std::min(options_.struct_size - kBegin, sizeof(seen)));
    return seen != 0;
  }

  // ---------------------------------------------------------------- buffers

  void choose_buffers() {
    for (syncnorm_vector* vector :
         {&weight_, &bias_, &running_mean_, &running_var_, &dweight_, &dbias_}) {
      vector->dtype = static_cast<syncnorm_dtype>(
          shape_.dtype == SYNCNORM_FLOAT64 ? 2 + input_.index(2) : input_.index(3));
      if (input_.rarely(64)) {
        vector->dtype = static_cast<syncnorm_dtype>(input_.hostile_int());
        parameters_are_right_ = false;
      }
    }
    const bool real = scale_ == Scale::kReal;
    const auto values = real ? static_cast<std::size_t>(shape_.n * shape_.c * shape_.s) : 0;
    const auto channels = real ? static_cast<std::size_t>(shape_.c) : 0;
    const auto lengths = [&](std::int64_t length) {
      return real ? static_cast<std::size_t>(length) * sizeof(double) : 0;
    };
    const std::size_t item = format_of(shape_.dtype).size;
    const std::size_t offset = input_.flag() ? item : 0;
    for (const Id id : {kX, kResidual, kY, kDy, kDx, kDresidual})
      buffers_[id].allocate(values * item, offset);
    buffers_[kMask].allocate(real && masks_fit_ ? static_cast<std::size_t>(shape_.n * shape_.s) : 0,
                             offset);
    const auto vector = [&](Id id, const syncnorm_vector& of) {
      const std::size_t size = format_of(of.dtype).size;
      buffers_[id].allocate(channels * size, offset == 0 ? 0 : size);
    };
    vector(kWeight, weight_), vector(kBias, bias_), vector(kRunningMean, running_mean_);
    vector(kRunningVar, running_var_), vector(kDweight, dweight_), vector(kDbias, dbias_);
    for (const Id id : {kWire, kTotal}) buffers_[id].allocate(lengths(sizes_.wire_length), 8);
    for (const Id id : {kGradWire, kGradTotal})
      buffers_[id].allocate(lengths(sizes_.grad_wire_length), 8);
    for (const Id id : {kCenterWire, kCenterTotal})
      buffers_[id].allocate(lengths(real ? shape_.c + 2 + shape_.c % 2 : 0), 8);
    buffers_[kLocalVar].allocate(channels * sizeof(double), 8);
    buffers_[kSaved].allocate(lengths(sizes_.saved_length), 8);
    buffers_[kGathered].allocate(3 * lengths(sizes_.wire_length), 8);
    buffers_[kTracked].allocate(sizeof(std::int64_t), 8);
    buffers_[kStatus].allocate(sizeof(std::int32_t), 4);
    workspace_size_ = real ? sizes_.workspace_size : kSmallWorkspace;
    buffers_[kWorkspace].allocate(workspace_size_, 0);

    random_ = Random(input_.raw<std::uint32_t>());
    for (int id = 0; id < kBuffers; ++id) refill(static_cast<Id>(id), any_fill());
    count_batches(input_.one_of<std::int64_t>({0, 1, 5}));

    with_mask_ = masks_fit_ && input_.flag();
    with_residual_ = input_.flag() && !in_place();
    with_running_ = input_.flag();
    y_ = input_.one_of({kY, kX, with_residual_ ? kResidual : kY});
    dx_ = input_.one_of({kDx, kDy, kNone});
    dresidual_ = in_place() ? kNone : input_.one_of({kDresidual, dx_ == kDy ? kNone : kDy, kNone});
    absent_ = Ids{input_.raw<std::uint16_t>()};
    if (y_ == kX && !in_place()) absent_ |= set_of({kSaved});
    group_size_ = 1 + input_.index(3);
    threads_ = 1 + input_.index(4);
  }

  Fill any_fill() {
    return input_.one_of({Fill::kUsual, Fill::kUsual, Fill::kSpecial, Fill::kBits, Fill::kZero});
  }

  void refill(Id id, Fill fill) {
    switch (id) {
      case kX:
      case kResidual:
      case kY:
      case kDy:
      case kDx:
      case kDresidual: return buffers_[id].fill(format_of(shape_.dtype), fill, random_);
      case kWeight: return buffers_[id].fill(format_of(weight_.dtype), fill, random_);
      case kBias: return buffers_[id].fill(format_of(bias_.dtype), fill, random_);
      case kRunningMean: return buffers_[id].fill(format_of(running_mean_.dtype), fill, random_);
      case kRunningVar: return buffers_[id].fill(format_of(running_var_.dtype), fill, random_);
      case kDweight: return buffers_[id].fill(format_of(dweight_.dtype), fill, random_);
      case kDbias: return buffers_[id].fill(format_of(dbias_.dtype), fill, random_);
      case kMask:
      case kStatus: return buffers_[id].fill(kBytes, fill, random_);
      default: return buffers_[id].fill(kFormats[SYNCNORM_FLOAT64], fill, random_);
    }
  }

  void count_batches(std::int64_t count) {
    std::memcpy(buffers_[kTracked].data(), &count, sizeof(count));
  }

  Snapshot snapshot() const {
    Snapshot copy;
    for (std::size_t id = 0; id < kWorkspace; ++id) {
      const auto* data = static_cast<const unsigned char*>(buffers_[id].data());
      copy[id].assign(data, data + buffers_[id].bytes());
    }
    return copy;
  }
  void restore(const Snapshot& copy) {
    for (std::size_t id = 0; id < kWorkspace; ++id)
      if (!copy[id].empty()) std::memcpy(buffers_[id].data(), copy[id].data(), copy[id].size());
  }
  bool unchanged(const Snapshot& copy, std::size_t id) const {
    return copy[id].empty() ||
           std::memcmp(buffers_[id].data(), copy[id].data(), copy[id].size()) == 0;
  }

  // ---------------------------------------------------------------- calls

  template <class T = void>
  T* pointer(Id id) const {
    if (id == kNone || id == missing_ || scale_ == Scale::kTooLarge) return nullptr;
    return static_cast<T*>(buffers_[id].data());
  }
  // Parameters that may be absent, each by a bit of the input.
  syncnorm_vector vector(Id id, const syncnorm_vector& like) const {
    return {contains(absent_, id % 16) ? nullptr : pointer(id), like.dtype};
  }

  syncnorm_forward_args forward_args() const {
    syncnorm_forward_args args = SYNCNORM_FORWARD_ARGS_INIT;
    args.x = pointer(kX);
    args.residual = with_residual_ ? pointer(kResidual) : nullptr;
    args.mask = with_mask_ ? pointer<const std::uint8_t>(kMask) : nullptr;
    args.weight = vector(kWeight, weight_);
    args.bias = vector(kBias, bias_);
    if (with_running_) {
      args.running_mean = {pointer(kRunningMean), running_mean_.dtype};
      args.running_var = {pointer(kRunningVar), running_var_.dtype};
      args.num_batches_tracked = pointer<std::int64_t>(kTracked);
    }
    args.y = pointer(y_);
    args.saved = contains(absent_, kSaved) ? nullptr : pointer<double>(kSaved);
    return args;
  }

  syncnorm_backward_args backward_args() const {
    syncnorm_backward_args args = SYNCNORM_BACKWARD_ARGS_INIT;
    args.x = pointer(kX);
    args.dy = pointer(kDy);
    if (with_residual_ && options_.activation != SYNCNORM_IDENTITY) args.y = pointer(y_);
    args.mask = with_mask_ ? pointer<const std::uint8_t>(kMask) : nullptr;
    args.weight = vector(kWeight, weight_);
    args.bias = vector(kBias, bias_);
    args.saved = pointer<double>(kSaved);
    args.dx = pointer(dx_);
    args.dresidual = pointer(dresidual_);
    args.dweight = vector(kDweight, dweight_);
    args.dbias = vector(kDbias, dbias_);
    return args;
  }

  syncnorm_launch launch() const {
    syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
    launch.workspace = buffers_[kWorkspace].data();
    launch.workspace_size = workspace_size_;
    launch.num_threads = threads_;
    launch.status = contains(absent_, 12) ? nullptr : pointer<std::int32_t>(kStatus);
    return launch;
  }

  // The structs of the next call, with at most one flaw. False: there is one.
  bool prepare() {
    missing_ = kNone;
    group_ = group_size_;
    const int flaw = scale_ == Scale::kReal ? input_.index(24) : 0;
    if (flaw == 16) missing_ = static_cast<Id>(input_.index(kBuffers));
    syncnorm_options options = options_;
    syncnorm_shape shape = shape_;
    if (flaw == 17) spoil(options);
    syncnorm_forward_args forward = forward_args();
    syncnorm_backward_args backward = backward_args();
    syncnorm_launch launch_struct = launch();
    if (flaw == 18) {
      std::size_t* size =
          input_.one_of({&options.struct_size, &shape.struct_size, &forward.struct_size,
                         &backward.struct_size, &launch_struct.struct_size});
      *size = input_.hostile_struct_size(*size);
    }
    if (flaw == 19) spoil(launch_struct);
    if (flaw == 20) group_ = input_.hostile_size();
    if (flaw == 21) {
      const Id id = input_.one_of(
          {kWire, kTotal, kSaved, kCenterTotal, kGradWire, kGradTotal, kLocalVar, kTracked});
      refill(id, any_fill());
      wire_ready_ = center_ready_ = saved_ready_ = grad_ready_ = false;
      if (id == kTracked) {
        count_batches(input_.hostile_size());
        parameters_are_right_ = false;
      }
    }
    if (flaw == 22) {
      switch (input_.index(4)) {
        case 0: backward.dresidual = backward.dx; break;
        case 1: forward.running_var = forward.running_mean; break;
        case 2: backward.y = backward.x; break;
        default: forward.residual = forward.x;
      }
    }
    shape_block_.emplace(shape);
    options_block_.emplace(options);
    forward_block_.emplace(forward);
    backward_block_.emplace(backward);
    launch_block_.emplace(launch_struct);
    if (unknown_member_) options_block_->bytes()[sizeof(syncnorm_options) + 3] = 1;
    if (flaw == 23) {
      forward_block_->get()->struct_size += 8, backward_block_->get()->struct_size += 8;
      forward_block_->bytes()[sizeof(syncnorm_forward_args) + 7] = 1;
      backward_block_->bytes()[sizeof(syncnorm_backward_args) + 7] = 1;
    }
    return flaw < 16;
  }

  void spoil(syncnorm_launch& launch) {
    switch (input_.index(7)) {
      case 0: launch.device = static_cast<syncnorm_device>(input_.hostile_int()); break;
      case 1: launch.stream = launch.workspace; break;
      case 2: launch.workspace = nullptr; break;
      case 3: launch.workspace = static_cast<char*>(launch.workspace) + 8; break;
      case 4: launch.workspace_size = workspace_size_ - 1 - input_.byte() % workspace_size_; break;
      case 5: launch.num_threads = input_.hostile_int(); break;
      default: launch.control = static_cast<char*>(launch.workspace) + 8;
    }
  }

  using Body = std::function<syncnorm_status(const syncnorm_launch*)>;

  // Makes the call and checks what it wrote. faulty: the communicator may fail it.
  bool make(Ids outputs, bool must_succeed, bool repeatable, bool faulty, const Body& body) {
    const Snapshot before = snapshot();
    const syncnorm_status status = body(launch_block_->get());
    FUZZ_REQUIRE(faulty || status == SYNCNORM_OK || status == SYNCNORM_INVALID_ARGUMENT ||
                 status == SYNCNORM_UNSUPPORTED || status == SYNCNORM_DESYNC);
    const bool ok = status == SYNCNORM_OK;
    if (scale_ != Scale::kReal) FUZZ_REQUIRE(!ok);
    if (must_succeed && scale_ == Scale::kReal) FUZZ_REQUIRE(ok);
    if (!ok) {
      FUZZ_REQUIRE(std::strlen(syncnorm_last_error()) > 0);
      outputs = status == SYNCNORM_DESYNC ? set_of({kStatus}) : 0;
    }
    for (std::size_t id = 0; id < kWorkspace; ++id)
      if (!contains(outputs, static_cast<int>(id))) FUZZ_REQUIRE(unchanged(before, id));
    if (!ok || !must_succeed || !repeatable) return ok;
    const Snapshot after = snapshot();
    restore(before);
    launch_block_->get()->num_threads = 1 + threads_ % 4;
    FUZZ_REQUIRE(body(launch_block_->get()) == SYNCNORM_OK);
    for (std::size_t id = 0; id < kWorkspace; ++id) FUZZ_REQUIRE(unchanged(after, id));
    return ok;
  }

  // total = the sum over group_size_ ranks that hold the same wire.
  void sum(Id wire, Id total) {
    const auto* from = static_cast<const double*>(buffers_[wire].data());
    auto* to = static_cast<double*>(buffers_[total].data());
    for (std::size_t i = 0; i < buffers_[wire].bytes() / sizeof(double); ++i)
      to[i] = static_cast<double>(group_size_) * from[i];
  }
  // A group of one may hand over the wire itself.
  double* total(Id wire, Id total) {
    const bool itself = group_ == 1 && contains(absent_, 13);
    return pointer<double>(itself ? wire : total);
  }

  void call() {
    const int kind = input_.index(12);
    if (input_.rarely(8)) refill(input_.one_of({kX, kDy, kWeight, kBias}), any_fill());
    const bool clean = prepare() && parameters_are_right_;
    const syncnorm_shape* shape = shape_block_->get();
    const syncnorm_options* options = options_block_->get();
    const syncnorm_forward_args* forward = forward_block_->get();
    const syncnorm_backward_args* backward = backward_block_->get();
    const Ids running = set_of({kRunningMean, kRunningVar, kTracked});
    const Ids gradients = set_of({dx_, dresidual_, kDweight, kDbias});
    double* center_total = centered() ? pointer<double>(kCenterTotal) : nullptr;
    switch (kind) {
      case 0:
        wire_ready_ =
            make(set_of({kWire, kLocalVar}), clean, true, false,
                 [&](auto* launch) {
                   return syncnorm_moments(shape, options, forward, pointer<double>(kWire),
                                           pointer<double>(kLocalVar), launch);
                 }) &&
            clean;
        if (wire_ready_) sum(kWire, kTotal);
        center_ready_ = false;
        return;
      case 1:
        center_ready_ =
            make(set_of({kCenterWire}), clean && wire_ready_ && centered(), true, false,
                 [&](auto* launch) {
                   return syncnorm_center(shape, options, group_, pointer<double>(kWire),
                                          total(kWire, kTotal), pointer<double>(kLocalVar),
                                          pointer<double>(kCenterWire), launch);
                 }) &&
            clean && wire_ready_;
        if (center_ready_) sum(kCenterWire, kCenterTotal);
        return;
      case 2: {
        const bool ready = clean && wire_ready_ && (center_ready_ || !centered());
        saved_ready_ = make(running | set_of({y_, kSaved}), ready, true, false,
                            [&](auto* launch) {
                              return syncnorm_normalize(shape, options, forward, group_,
                                                        pointer<double>(kWire),
                                                        total(kWire, kTotal), center_total, launch);
                            }) &&
                       ready && forward->saved != nullptr;
        return;
      }
      case 3:
        make(running, clean && wire_ready_ && (center_ready_ || !centered()), true, false,
             [&](auto* launch) {
               return syncnorm_update_running(shape, options, forward, group_,
                                              pointer<double>(kWire), total(kWire, kTotal),
                                              center_total, launch);
             });
        return;
      case 4:
        grad_ready_ = make(set_of({kGradWire}), clean && saved_ready_, true, false,
                           [&](auto* launch) {
                             return syncnorm_grad_moments(shape, options, backward,
                                                          pointer<double>(kGradWire), launch);
                           }) &&
                      clean && saved_ready_;
        if (grad_ready_) sum(kGradWire, kGradTotal);
        return;
      case 5:
        make(gradients, clean && grad_ready_, true, false, [&](auto* launch) {
          return syncnorm_grad_input(shape, options, backward, group_, pointer<double>(kGradWire),
                                     total(kGradWire, kGradTotal), launch);
        });
        return;
      case 6:
        saved_ready_ =
            make(set_of({y_, kSaved}), clean && with_running_, true, false,
                 [&](auto* launch) { return syncnorm_infer(shape, options, forward, launch); }) &&
            clean && forward->saved != nullptr;
        return;
      case 7:
        make(gradients, clean && saved_ready_, true, false, [&](auto* launch) {
          return syncnorm_infer_backward(shape, options, backward, launch);
        });
        return;
      case 8:
      case 9: return call_at_once(kind == 8, clean);
      case 10: return add_wires(clean);
      default: {
        // A phase without its arguments.
        make(0, false, false, false,
             [&](auto*) { return syncnorm_forward(nullptr, options, forward, nullptr, nullptr); });
      }
    }
  }

  void call_at_once(bool is_forward, bool clean) {
    Peers peers;
    peers.size = group_size_;
    const int kind = input_.index(8);
    if (kind == 7) {
      peers.fault = 1 + input_.index(5);
      peers.status = static_cast<syncnorm_status>(input_.hostile_int());
    }
    syncnorm_comm* comm = nullptr;
    if (kind >= 4) {
      syncnorm_callbacks callbacks = SYNCNORM_CALLBACKS_INIT;
      callbacks.context = &peers;
      callbacks.sum = &Peers::sum;
      FUZZ_REQUIRE(syncnorm_comm_create_callback(peers.size - 1, peers.size, &callbacks, &comm) ==
                   SYNCNORM_OK);
    } else if (kind == 3) {
      FUZZ_REQUIRE(syncnorm_comm_create_threads(1, 1.0, &comm) == SYNCNORM_OK);
    }
    peers.comm = comm;
    const bool faulty = peers.fault != 0;
    // Otherwise saved holds the communicator's count of forward passes.
    const bool repeatable = comm == nullptr || (options_.tag & 0xffffffff) != 0;
    if (is_forward) {
      const bool ready = clean && !faulty;
      saved_ready_ =
          make(set_of({y_, kSaved, kRunningMean, kRunningVar, kTracked}), ready, repeatable, faulty,
               [&](auto* launch) {
                 return syncnorm_forward(shape_block_->get(), options_block_->get(),
                                         forward_block_->get(), comm, launch);
               }) &&
          ready && forward_block_->get()->saved != nullptr;
    } else {
      make(set_of({dx_, dresidual_, kDweight, kDbias}), clean && !faulty && saved_ready_,
           repeatable, faulty, [&](auto* launch) {
             return syncnorm_backward(shape_block_->get(), options_block_->get(),
                                      backward_block_->get(), comm, launch);
           });
    }
    syncnorm_comm_destroy(comm);
  }

  void add_wires(bool clean) {
    if (scale_ != Scale::kReal) return;
    std::int64_t ranks = input_.index(4), length = sizes_.wire_length;
    double* into = pointer<double>(kTotal);
    const double* gathered = pointer<double>(kGathered);
    if (input_.rarely(4)) {
      clean = false;
      ranks = input_.hostile_size(), length = input_.hostile_size(), into = nullptr;
    }
    wire_ready_ = center_ready_ = false;
    make(set_of({kTotal}), clean, true, false,
         [&](auto* launch) { return syncnorm_add_wires(gathered, ranks, length, into, launch); });
  }

  Input& input_;
  Random random_;
  syncnorm_shape shape_{};
  syncnorm_options options_{};
  syncnorm_sizes sizes_{};
  bool unknown_member_ = false;
  bool masks_fit_ = false;
  bool parameters_are_right_ = true;
  Scale scale_ = Scale::kRefused;
  std::array<Buffer, kBuffers> buffers_;
  std::size_t workspace_size_ = 0;
  syncnorm_vector weight_{}, bias_{}, running_mean_{}, running_var_{}, dweight_{}, dbias_{};
  bool with_mask_ = false, with_residual_ = false, with_running_ = false;
  Id y_ = kY, dx_ = kDx, dresidual_ = kDresidual;
  Ids absent_ = 0;
  int group_size_ = 1;
  int threads_ = 1;
  // Of the call that is being made.
  Id missing_ = kNone;
  std::int64_t group_ = 1;
  std::optional<StructBlock<syncnorm_shape>> shape_block_;
  std::optional<StructBlock<syncnorm_options>> options_block_;
  std::optional<StructBlock<syncnorm_forward_args>> forward_block_;
  std::optional<StructBlock<syncnorm_backward_args>> backward_block_;
  std::optional<StructBlock<syncnorm_launch>> launch_block_;
  // What earlier calls have left valid.
  bool wire_ready_ = false, center_ready_ = false, saved_ready_ = false, grad_ready_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  Session(input).run();
  return 0;
}
