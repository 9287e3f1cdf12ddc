// Decodes fuzz input into values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>

namespace fuzz {

// Past the end every value is zero, so that every input is a valid one.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}

  bool empty() const noexcept { return left_ == 0; }

  template <class T>
  T raw() {
    T value{};
    const std::size_t taken = left_ < sizeof(T) ? left_ : sizeof(T);
    if (taken > 0) std::memcpy(&value, data_, taken);
    data_ += taken;
    left_ -= taken;
    return value;
  }

  std::uint8_t byte() { return raw<std::uint8_t>(); }
  bool flag() { return (byte() & 1) != 0; }
  // One input in `rarity`.
  bool rarely(int rarity = 16) { return byte() % rarity == rarity - 1; }
  // 0 ... count - 1
  int index(int count) { return byte() % count; }

  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[static_cast<std::size_t>(index(static_cast<int>(values.size())))];
  }

  // Sizes where products overflow or change sign, and any other.
  std::int64_t hostile_size() {
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
    if (rarely(4)) return raw<std::int64_t>();
    return one_of<std::int64_t>(
        {0, 1, 2, 3, 511, -1, -kMost - 1, kMost, kMost / 8, kMost / 3, std::int64_t{1} << 31,
         std::int64_t{1} << 32, std::int64_t{1} << 40, std::int64_t{1} << 59, std::int64_t{1} << 60,
         std::int64_t{1} << 61, std::int64_t{1} << 62});
  }

  std::int32_t hostile_int() {
    if (rarely(4)) return raw<std::int32_t>();
    return one_of<std::int32_t>({-1, 0, 1, 2, 3, 4, 5, std::numeric_limits<std::int32_t>::max(),
                                 std::numeric_limits<std::int32_t>::min()});
  }

  double hostile_double() {
    using Limits = std::numeric_limits<double>;
    if (rarely(4)) return raw<double>();
    return one_of<double>({0.0, -0.0, 1e-5, 0.5, 1.0, -1.0, 2.0, Limits::denorm_min(), 0x1p-126,
                           0x1p126, 0x1p127, Limits::max(), Limits::lowest(), Limits::infinity(),
                           -Limits::infinity(), Limits::quiet_NaN()});
  }

  std::size_t hostile_struct_size(std::size_t expected) {
    if (rarely(4)) return raw<std::uint16_t>();
    return one_of<std::size_t>({0, 1, 8, expected - 8, expected - 4, expected - 1, expected + 1,
                                expected + 8, 4096, 4097, std::size_t{1} << 32,
                                std::size_t{1} << 62, std::numeric_limits<std::size_t>::max()});
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

// A struct as a caller may hand it over: alone in its allocation, with zeros after it, since a
// caller that is newer than the library has a longer struct.
template <class Struct>
class StructBlock {
 public:
  static constexpr std::size_t kBytes = 4096;

  StructBlock() : bytes_(new unsigned char[kBytes]()) {}
  explicit StructBlock(const Struct& value) : StructBlock() { *get() = value; }
  StructBlock(const StructBlock&) = delete;
  StructBlock& operator=(const StructBlock&) = delete;
  ~StructBlock() { delete[] bytes_; }

  Struct* get() { return reinterpret_cast<Struct*>(bytes_); }
  unsigned char* bytes() { return bytes_; }

 private:
  unsigned char* bytes_;
};

}  // namespace fuzz
