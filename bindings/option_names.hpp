// Names of the enumerators of syncnorm_options, for Python and XLA; the position is the value.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace syncnorm::bindings {

inline constexpr const char* kWeightings[] = {"count", "equal", "batch"};
inline constexpr const char* kEpsModes[] = {"add", "max"};
inline constexpr const char* kVarianceFactors[] = {"unbiased", "biased", "unbiased_local",
                                                   "unbiased_rank"};
inline constexpr const char* kGradReductions[] = {"local", "sum", "mean"};
inline constexpr const char* kCenterings[] = {"auto", "on", "off"};
inline constexpr const char* kActivations[] = {"identity", "relu", "leaky_relu", "elu"};

template <class Enum, std::size_t Count>
std::optional<Enum> find_choice(std::string_view name, const char* const (&names)[Count]) {
  for (std::size_t i = 0; i < Count; ++i)
    if (name == names[i]) return static_cast<Enum>(i);
  return std::nullopt;
}

// For messages: "'add', 'max'".
template <std::size_t Count>
std::string listed(const char* const (&names)[Count]) {
  std::string text;
  for (const char* name : names) text.append(text.empty() ? "'" : ", '").append(name).append("'");
  return text;
}

}  // namespace syncnorm::bindings
