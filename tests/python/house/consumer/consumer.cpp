// The C++ face: an error arrives as an exception, and a good call gives the sizes of the header's
// table.
#include <cstdio>
#include <syncnorm/syncnorm.hpp>

int main() {
  syncnorm::Options options;
  const syncnorm::Sizes sizes = syncnorm::query_sizes(syncnorm::Shape{8, 3, 16}, options);
  if (sizes.wire != 2 * 3 + 4) return 1;

  options.eps = -1;
  try {
    syncnorm::query_sizes(syncnorm::Shape{8, 3, 16}, options);
  } catch (const syncnorm::InvalidArgument& error) {
    std::puts(syncnorm_version());
    return 0;
  }
  return 1;
}
