#include "ops/workspace.hpp"

#include "math/wire.hpp"

namespace syncnorm {
namespace {

constexpr std::size_t kAlignment = 64;

constexpr std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

std::size_t vector_bytes(std::int64_t length) {
  return aligned(static_cast<std::size_t>(length) * sizeof(double));
}

}  // namespace

// The backward wire is shorter than the forward wire, so the space of one serves the other.
std::size_t workspace_size(const Problem& problem, const Backend& backend) {
  std::size_t bytes = aligned(backend.scratch_size(problem));
  bytes += 2 * vector_bytes(ForwardWire::length(problem.c));
  if (problem.centered())
    bytes += vector_bytes(problem.c) + 2 * vector_bytes(problem.center_wire_length());
  return bytes;
}

WireSpace wire_space(const Problem& problem, const Backend& backend, void* workspace) {
  auto* next = static_cast<std::byte*>(workspace) + aligned(backend.scratch_size(problem));
  const auto take = [&next](std::int64_t length) {
    auto* taken = reinterpret_cast<double*>(next);
    next += vector_bytes(length);
    return taken;
  };
  WireSpace space{};
  space.wire = take(ForwardWire::length(problem.c));
  space.total = take(ForwardWire::length(problem.c));
  if (!problem.centered()) return space;
  space.local_var = take(problem.c);
  space.center_wire = take(problem.center_wire_length());
  space.center_total = take(problem.center_wire_length());
  return space;
}

}  // namespace syncnorm
