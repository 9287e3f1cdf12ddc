// Pointer, shape, strides, dtype and device of an array argument.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vendor/dlpack.h"

namespace syncnorm::bindings {

namespace nb = nanobind;

// A view of an array. `shape` and `strides` (in elements) live as long as the Python object from
// which they were read.
struct ArrayView {
  void* data = nullptr;
  const std::int64_t* shape = nullptr;
  const std::int64_t* strides = nullptr;
  int ndim = 0;
  DLDataType dtype{};
  DLDevice device{};
  bool read_only = false;

  std::int64_t count() const noexcept;
  std::int64_t item_size() const noexcept { return dtype.bits / 8; }
  // Row-major without gaps; strides of axes with one element do not matter.
  bool is_contiguous() const noexcept;
  // Requires an address range that does not wrap, which the constructors of Array check.
  bool overlaps(const ArrayView& other) const noexcept;
};

// The Python class `Array`, for arrays without DLPack's C exchange table.
class Array {
 public:
  Array(std::uintptr_t pointer, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides,
        const std::string& dtype, const std::string& device, int device_index, bool read_only,
        nb::object owner);
  // A view of the host memory that `buffer` exports. The Array holds the export.
  Array(nb::handle buffer, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides,
        const std::string& dtype);
  ArrayView view() const noexcept;
  // Raises InvalidArgumentError if the buffer's owner has moved or shrunk its memory, which NumPy's
  // resize does in spite of the export.
  void require_memory_unchanged(const char* name) const;

 private:
  struct Release {
    void operator()(Py_buffer* buffer) const noexcept;
  };
  using HeldBuffer = std::unique_ptr<Py_buffer, Release>;
  static HeldBuffer hold(nb::handle object);
  // The elements lie between addresses that exist, and inside the buffer if there is one.
  void check_extent() const;
  Array(HeldBuffer buffer, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides,
        const std::string& dtype);

  std::uintptr_t pointer_;
  std::vector<std::int64_t> shape_;
  std::vector<std::int64_t> strides_;
  DLDataType dtype_;
  DLDevice device_;
  bool read_only_;
  nb::object owner_;
  HeldBuffer buffer_;
};

// Reads an array argument without copying, converting or synchronizing. Raises ArgumentTypeError if
// `object` is neither an Array nor of a type with DLPack's C exchange table, and
// InvalidArgumentError for a shape whose products wrap: count() and the checks of strides need none
// after that.
ArrayView view_of(nb::handle object, const char* name);

bool same_dtype(DLDataType a, DLDataType b) noexcept;

// For messages: "float32", "cuda:0", "(2, 3)".
std::string dtype_name(DLDataType dtype);
std::string device_name(DLDevice device);
std::string tuple_text(const std::int64_t* values, int count);

void bind_array(nb::module_& module);

}  // namespace syncnorm::bindings
