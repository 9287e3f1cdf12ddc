// What the scenarios share: the ranks, what they write down, and a layer to train.
#pragma once

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "syncnorm/mpi.hpp"
#include "syncnorm/syncnorm.hpp"

using syncnorm::Communicator;
using syncnorm::mpi_communicator;
using Values = std::vector<double>;

constexpr std::chrono::seconds kAmple{60};            // for what comes, however slow the machine
constexpr std::chrono::duration<double> kShort{0.5};  // for what never comes

inline int rank = 0, size = 1;
inline std::ofstream outcomes;

template <class... Parts>
void write(const char* scenario, const Parts&... parts) {
  outcomes << scenario << ':';
  ((outcomes << ' ' << parts), ...);
  outcomes << std::endl;
}

inline std::string error_of(const std::function<void()>& body) {
  try {
    body();
    return "no error";
  } catch (const syncnorm::Error& error) {
    return std::string(syncnorm_status_name(error.status())) + ", " + error.what();
  }
}

inline Values summed(Communicator& comm, const Values& src) {
  Values dst(src.size(), std::nan(""));
  comm.sum(src, dst);
  return dst;
}
inline std::string sum_error(Communicator& comm, std::size_t count = 3) {
  return error_of([&] { summed(comm, Values(count, 1.0)); });
}

// With 7 positions; its values go on where the first `start` of the whole batch end.
struct Layer {
  Layer(std::int64_t n, std::int64_t c, double start) : shape{n, c, 7, SYNCNORM_FLOAT64} {
    x.resize(static_cast<std::size_t>(n * c * 7));
    y = dy = dx = x;
    for (std::size_t i = 0; i < x.size(); ++i, ++start) {
      x[i] = 3 + std::sin(7 * start);
      dy[i] = std::cos(3 * start);
    }
    saved.resize(syncnorm::query_sizes(shape, {}).saved);
  }

  void train(Communicator& comm, const syncnorm::Options& options) {
    const syncnorm::Workspace workspace(syncnorm::query_sizes(shape, options).workspace);
    const auto launch = syncnorm::Launch::cpu(workspace);
    syncnorm::ForwardArgs forward;
    forward.x = {x.data(), shape};
    forward.y = {y.data(), shape};
    forward.saved = saved;
    syncnorm::forward(options, forward, comm, launch);
    syncnorm::BackwardArgs backward;
    backward.x = forward.x;
    backward.dy = {dy.data(), shape};
    backward.saved = saved;
    backward.dx = {dx.data(), shape};
    syncnorm::backward(options, backward, comm, launch);
  }

  syncnorm::Shape shape;
  Values x, y, dy, dx, saved;
};
