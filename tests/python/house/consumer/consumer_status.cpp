// The C++ face in a program without exceptions: every call is given its status.
#include <chrono>
#include <cstdio>
#include <syncnorm/syncnorm.hpp>

int main() {
  syncnorm::Status status;
  syncnorm::Options options;
  options.eps = -1;
  syncnorm::query_sizes(syncnorm::Shape{8, 3, 16}, options, SYNCNORM_CPU, status);
  if (status.code() != SYNCNORM_INVALID_ARGUMENT || status.message().empty()) return 1;

  syncnorm::Callbacks callbacks;
  callbacks.sum = [](const double* src, double* dst, std::int64_t count, void*) {
    for (std::int64_t i = 0; i < count; ++i) dst[i] = 2 * src[i];
  };
  auto comm = syncnorm::Communicator::callback(0, 2, callbacks, status);
  const double one[] = {1, 2};
  double total[] = {0, 0};
  comm.sum({one, 2}, {total, 2}, status);
  if (!status.ok() || total[1] != 4) return 1;
  comm.sum({one, 2}, {total, 1}, status);
  if (status.code() != SYNCNORM_INVALID_ARGUMENT) return 1;

  syncnorm::check_version(status);
  if (!status.ok()) return 1;
  std::puts(syncnorm::version());
  return 0;
}
