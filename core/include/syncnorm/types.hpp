// Part of syncnorm.hpp: what is normalized, how, and where. Everything here but Workspace is a
// view.
#ifndef SYNCNORM_TYPES_HPP_
#define SYNCNORM_TYPES_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "errors.hpp"

namespace syncnorm {
inline namespace SYNCNORM_INLINE_NAMESPACE {

// The dtype of a C++ type. For a 16-bit type of your own, specialize it:
//   template <> struct syncnorm::DtypeOf<my::half> { static constexpr auto value =
//   SYNCNORM_FLOAT16; };
template <class T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
  static constexpr syncnorm_dtype value = SYNCNORM_FLOAT32;
};
template <>
struct DtypeOf<double> {
  static constexpr syncnorm_dtype value = SYNCNORM_FLOAT64;
};

namespace detail {

template <class Container>
using DataOf = decltype(std::declval<Container&>().data());

// A container whose values go when it goes: its constness is that of its values.
template <class Container, class Plain = std::remove_cv_t<std::remove_reference_t<Container>>>
inline constexpr bool kIsOwner = !std::is_same_v<DataOf<Plain>, DataOf<const Plain>>;

template <class Container, class T>
inline constexpr bool kIsSpannable =
    std::is_convertible_v<DataOf<Container>, T*> &&
    (std::is_lvalue_reference_v<Container> || !kIsOwner<Container>);

template <class T, class Void>
inline constexpr bool kIsPointerTo = std::is_convertible_v<T*, Void*>;

}  // namespace detail

// Contiguous values of somebody else: std::span, which C++17 does not have. Empty where absent.
template <class T>
class Span {
 public:
  constexpr Span() noexcept = default;
  constexpr Span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}
  // From a container that has data() and size(), such as std::vector, std::array or std::span; not
  // from a temporary one that owns its values.
  template <class Container, class = std::enable_if_t<detail::kIsSpannable<Container, T>>>
  constexpr Span(Container&& values) noexcept : data_(values.data()), size_(values.size()) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// x seen as (n, c, s): samples, channels, positions of a sample.
struct Shape {
  std::int64_t n = 0;
  std::int64_t c = 0;
  std::int64_t s = 1;
  syncnorm_dtype dtype = SYNCNORM_FLOAT32;
  syncnorm_layout layout = SYNCNORM_CHANNELS_FIRST;

  syncnorm_shape c_struct() const noexcept {
    return {sizeof(syncnorm_shape), n, c, s, dtype, layout};
  }
  friend bool operator==(const Shape& a, const Shape& b) noexcept {
    return a.n == b.n && a.c == b.c && a.s == b.s && a.dtype == b.dtype && a.layout == b.layout;
  }
  friend bool operator!=(const Shape& a, const Shape& b) noexcept { return !(a == b); }
};

// A dense tensor in the caller's memory: void for one that is written, const void for one that is
// read. Default-constructed: absent.
template <class Void>
class BasicTensor {
 public:
  BasicTensor() = default;
  BasicTensor(Void* data, const Shape& shape) : data_(data), shape_(shape), present_(true) {}
  template <class T, class = decltype(DtypeOf<std::remove_const_t<T>>::value),
            class = std::enable_if_t<detail::kIsPointerTo<T, Void>>>
  BasicTensor(T* data, std::int64_t n, std::int64_t c, std::int64_t s = 1,
              syncnorm_layout layout = SYNCNORM_CHANNELS_FIRST)
      : BasicTensor(data, Shape{n, c, s, DtypeOf<std::remove_const_t<T>>::value, layout}) {}
  template <class Other, class = std::enable_if_t<detail::kIsPointerTo<Other, Void>>>
  BasicTensor(const BasicTensor<Other>& other)
      : data_(other.data()), shape_(other.shape()), present_(other.present()) {}

  Void* data() const noexcept { return data_; }
  const Shape& shape() const noexcept { return shape_; }
  bool present() const noexcept { return present_; }

 private:
  Void* data_ = nullptr;
  Shape shape_{};
  bool present_ = false;  // a tensor without values may have no address
};
using TensorView = BasicTensor<void>;
using ConstTensorView = BasicTensor<const void>;

// One value per channel in the caller's memory. Default-constructed, or from nullptr: absent.
template <class Void>
class BasicVector {
 public:
  BasicVector() = default;
  BasicVector(std::nullptr_t) {}
  BasicVector(Void* data, syncnorm_dtype dtype) : data_(data), dtype_(dtype) {}
  template <class T, class = decltype(DtypeOf<std::remove_const_t<T>>::value),
            class = std::enable_if_t<detail::kIsPointerTo<T, Void>>>
  BasicVector(T* data) : BasicVector(data, DtypeOf<std::remove_const_t<T>>::value) {}
  template <class Other, class = std::enable_if_t<detail::kIsPointerTo<Other, Void>>>
  BasicVector(const BasicVector<Other>& other) : BasicVector(other.data(), other.dtype()) {}

  Void* data() const noexcept { return data_; }
  syncnorm_dtype dtype() const noexcept { return dtype_; }
  // The C struct serves inputs and outputs alike; the library does not write to inputs.
  syncnorm_vector c_struct() const noexcept { return {const_cast<void*>(data_), dtype_}; }

 private:
  Void* data_ = nullptr;
  syncnorm_dtype dtype_ = SYNCNORM_FLOAT32;
};
using Vector = BasicVector<void>;
using ConstVector = BasicVector<const void>;

// See syncnorm_options. Everything except momentum and variance_factor must agree on all ranks.
struct Options {
  double eps = 1e-5;
  double momentum = 0.1;  // or SYNCNORM_MOMENTUM_CUMULATIVE
  double negative_slope = 0.01;
  syncnorm_weighting weighting = SYNCNORM_WEIGHT_COUNT;
  syncnorm_eps_mode eps_mode = SYNCNORM_EPS_ADD;
  syncnorm_variance_factor variance_factor = SYNCNORM_VARIANCE_UNBIASED;
  syncnorm_grad_reduction grad_reduction = SYNCNORM_GRAD_LOCAL;
  syncnorm_centering centering = SYNCNORM_CENTER_AUTO;
  syncnorm_activation activation = SYNCNORM_IDENTITY;
  std::uint64_t tag = 0;
  bool in_place = false;  // y may overwrite x; the backward functions take y as x

  syncnorm_options c_struct() const noexcept {
    return {sizeof(syncnorm_options),
            eps,
            momentum,
            negative_slope,
            weighting,
            eps_mode,
            variance_factor,
            grad_reduction,
            centering,
            activation,
            tag,
            in_place ? 1 : 0};
  }
};

// Scratch in the device's memory, 64-byte aligned.
struct WorkspaceView {
  void* data = nullptr;
  std::size_t size = 0;
};

// Scratch in host memory that this object owns. One per thread that calls; reuse it from call to
// call.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::size_t size) { reserve(size); }

  // Makes room for at least `size` bytes. What was there is lost.
  void reserve(std::size_t size) {
    if (size <= size_) return;
    data_.reset();
    size_ = 0;
    data_.reset(::operator new(size, std::align_val_t{kAlignment}));
    size_ = size;
  }
  std::size_t size() const noexcept { return size_; }
  operator WorkspaceView() const& noexcept { return {data_.get(), size_}; }
  operator WorkspaceView() const&& = delete;  // a view of a temporary

 private:
  static constexpr std::size_t kAlignment = 64;
  struct Free {
    void operator()(void* data) const noexcept {
      ::operator delete(data, std::align_val_t{kAlignment});
    }
  };
  std::unique_ptr<void, Free> data_;
  std::size_t size_ = 0;
};

// Where a call runs. A CUDA launch always names its stream. There is no default: neither nullptr
// nor 0 is taken, and who means CUDA's default stream writes cudaStreamLegacy or
// cudaStreamPerThread.
class Launch {
 public:
  static Launch cpu(WorkspaceView workspace, int num_threads = 1) {
    Launch launch(SYNCNORM_CPU, 0, nullptr, workspace);
    launch.launch_.num_threads = num_threads;
    return launch;
  }
  static Launch cuda(int device_index, void* stream, WorkspaceView workspace) {
    return Launch(SYNCNORM_CUDA, device_index, stream, workspace);
  }
  static Launch cuda(int device_index, std::nullptr_t, WorkspaceView) = delete;
  static Launch cuda(int device_index, int, WorkspaceView) = delete;
  template <class Stream>
  static Launch cuda(int device_index, Stream** address, WorkspaceView) = delete;

  // A word that the device can access, which is set to SYNCNORM_DESYNC where the ranks disagree.
  Launch& status(std::int32_t* word) noexcept {
    launch_.status = word;
    return *this;
  }
  // SYNCNORM_CONTROL_SIZE bytes on the device, zeroed once, for calls on this stream only.
  Launch& control(void* zeroed) noexcept {
    launch_.control = zeroed;
    return *this;
  }
  const syncnorm_launch& c_struct() const noexcept { return launch_; }

 private:
  Launch(syncnorm_device device, int device_index, void* stream, WorkspaceView workspace)
      : launch_{sizeof(syncnorm_launch), device, device_index, stream, workspace.data,
                workspace.size,          1,      nullptr,      nullptr} {}
  syncnorm_launch launch_;
};

}  // namespace SYNCNORM_INLINE_NAMESPACE
}  // namespace syncnorm

#endif  // SYNCNORM_TYPES_HPP_
