// The C++ face in a program without exceptions: every call is given its status.
#include <chrono>
#include <cstdio>
#include <syncbn/syncbn.hpp>

int main() {
  syncbn::Status status;
  syncbn::Options options;
  options.eps = -1;
  syncbn::query_sizes(syncbn::Shape{8, 3, 16}, options, SYNCBN_CPU, status);
  if (status.code() != SYNCBN_INVALID_ARGUMENT || status.message().empty()) return 1;

  syncbn::Callbacks callbacks;
  callbacks.sum = [](const double* src, double* dst, std::int64_t count, void*) {
    for (std::int64_t i = 0; i < count; ++i) dst[i] = 2 * src[i];
  };
  auto comm = syncbn::Communicator::callback(0, 2, callbacks, status);
  const double one[] = {1, 2};
  double total[] = {0, 0};
  comm.sum({one, 2}, {total, 2}, status);
  if (!status.ok() || total[1] != 4) return 1;
  comm.sum({one, 2}, {total, 1}, status);
  if (status.code() != SYNCBN_INVALID_ARGUMENT) return 1;

  syncbn::check_version(status);
  if (!status.ok()) return 1;
  std::puts(syncbn::version());
  return 0;
}
