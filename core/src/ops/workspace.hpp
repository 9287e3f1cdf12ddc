// How a call's workspace is divided: the backend's scratch first, then the wires of the one-call
// form.
#pragma once

#include <cstddef>

#include "backend/backend.hpp"
#include "plan/problem.hpp"

namespace syncnorm {

// Bytes of the whole workspace.
std::size_t workspace_size(const Problem&, const Backend&);

// Where the wires stand in a workspace of that size.
WireSpace wire_space(const Problem&, const Backend&, void* workspace);

}  // namespace syncnorm
