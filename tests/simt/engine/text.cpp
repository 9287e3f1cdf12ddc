#include "engine/text.hpp"

#include <array>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace simt {

bool same_place(const char* call, const std::source_location& where, const char* other_call,
                const std::source_location& other) {
  return where.line() == other.line() && where.column() == other.column() &&
         std::strcmp(call, other_call) == 0 &&
         std::strcmp(where.file_name(), other.file_name()) == 0;
}

std::string hex(std::uint64_t value) {
  std::array<char, 24> digits{};
  std::snprintf(digits.data(), digits.size(), "0x%llx", static_cast<unsigned long long>(value));
  return digits.data();
}

std::string describe(const char* call, const std::source_location& where) {
  std::string_view file = where.file_name();
  file.remove_prefix(file.find_last_of('/') + 1);
  return std::string(call) + " at " + std::string(file) + ":" + std::to_string(where.line());
}

std::string describe_threads(const std::vector<int>& numbers) {
  std::string text = numbers.size() == 1 ? "thread " : "threads ";
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += (i == 0 ? "" : ", ") + std::to_string(numbers[i]);
    if (last > i) text += "-" + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace simt
