// Checks of a single array argument. They compare metadata, and raise InvalidArgumentError with the
// name of the argument.
#pragma once

#include <cstddef>
#include <string>

#include "array_view.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

enum class Access { kRead, kWrite };

// kDLFloat etc. and the number of bits.
bool is_dtype(const ArrayView& view, int code, int bits) noexcept;
syncnorm_dtype require_float_dtype(const ArrayView& view, const char* name);
void require_float64(const ArrayView& view, const char* name);
void require_writable(const ArrayView& view, const char* name, Access access);
void require_contiguous(const ArrayView& view, const char* name);
// The core reads and writes whole elements.
void require_aligned(const ArrayView& view, const char* name);
// Raises UnsupportedError for a device other than CPU and CUDA.
syncnorm_device require_device(DLDevice device, const char* name);
// The pointer. A null pointer is an error if there are elements: the core would take it for an
// omitted argument.
void* require_memory(const ArrayView& view, const char* name);

// Dense, with the axes in the order N, spatial, C. Strides of axes of size 1 are ignored.
bool is_channels_last(const ArrayView& view) noexcept;
bool same_shape(const ArrayView& a, const ArrayView& b) noexcept;
bool same_device(DLDevice a, DLDevice b) noexcept;

std::size_t size_in_bytes(const ArrayView& view) noexcept;
// For messages: "(2, 3)".
std::string shape_text(const ArrayView& view);
std::string strides_text(const ArrayView& view);

// A contiguous float64 array of any length on any device.
ArrayView contiguous_float64(nb::handle object, const char* name, Access access);

}  // namespace syncnorm::bindings
