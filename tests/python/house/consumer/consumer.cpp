// The C++ face: an error arrives as an exception, and a good call gives the sizes of the header's
// table.
#include <cstdio>
#include <syncbn/syncbn.hpp>

int main() {
  syncbn::Options options;
  const syncbn::Sizes sizes = syncbn::query_sizes(syncbn::Shape{8, 3, 16}, options);
  if (sizes.wire != 2 * 3 + 4) return 1;

  options.eps = -1;
  try {
    syncbn::query_sizes(syncbn::Shape{8, 3, 16}, options);
  } catch (const syncbn::InvalidArgument& error) {
    std::puts(syncbn_version());
    return 0;
  }
  return 1;
}
