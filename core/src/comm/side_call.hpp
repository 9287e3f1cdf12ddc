// A call that may never return, made where that does no harm.
#pragma once

#include <functional>
#include <optional>

namespace syncnorm {

// The result of body, run in a thread of its own. Nothing: it has not returned after `seconds`, or
// the calling thread was interrupted; the thread goes on with it, so body must own what it uses.
std::optional<int> result_within(double seconds, std::function<int()> body);

}  // namespace syncnorm
