// A communicator over the trainer's own MPI, for C++17 and later. Not part of syncnorm.hpp: this
// header needs <mpi.h> (MPI 3.0 or newer), and who includes it links MPI.
//
//   syncnorm::Communicator comm = syncnorm::mpi_communicator(MPI_COMM_WORLD);  // every rank calls
//   it syncnorm::forward(options, args, comm, launch);
//
//   Memory     It sums host memory. For CUDA devices: Communicator::nccl, whose id MPI can carry.
//   Ownership  The calls are made on a duplicate, so that they never meet the trainer's own, which
//              may be pending meanwhile; the trainer may free its communicator. The duplicate is
//              freed with the handle, unless MPI was finalized before: destroy the handle first.
//   Deadline   A call that waits longer than `timeout` throws Timeout. MPI does not tell which rank
//              is missing. abort(), from another thread, ends a wait.
//   Desync     Ranks in different calls, or with vectors of different lengths, get Desync, all of
//              them. A rank that gives up (a deadline, an abort, an exception that destroys its
//              handle) sends that in place of its next call; the others then get RankLost.
//   Errors     What MPI reports is an InternalError with MPI's text. While the duplicate is made,
//              the trainer's error handler comes first, which by default ends the job.
//   Threads    MPI_THREAD_SERIALIZED and above: any thread, and with SERIALIZED the trainer sees to
//              it that no other thread is in MPI. Below: the thread that initialized MPI.
#ifndef SYNCNORM_MPI_HPP_
#define SYNCNORM_MPI_HPP_

#include <mpi.h>

#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "communicator.hpp"
#include "errors.hpp"
#include "mpi_link.hpp"

namespace syncnorm {
inline namespace SYNCNORM_INLINE_NAMESPACE {
namespace detail {

inline Callbacks callbacks_over(const std::shared_ptr<MpiLink>& link) {
  Callbacks callbacks;
  callbacks.sum = [link](const double* src, double* dst, std::int64_t count, void*) {
    link->sum(src, dst, count);
  };
  callbacks.split = [link](int color, int key) -> std::optional<Callbacks::Group> {
    const std::shared_ptr<MpiLink> part = link->split(color, key);
    if (!part) return std::nullopt;
    return Callbacks::Group{part->rank(), part->size(), callbacks_over(part)};
  };
  callbacks.abort = [link](const std::string&) { link->abort(); };
  return callbacks;
}

inline void check_mpi(MPI_Comm comm, MpiLink::Seconds timeout) {
  const auto refuse = [](const std::string& message) {
    throw InvalidArgument("mpi_communicator: " + message);
  };
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (!initialized) refuse("MPI is not initialized, expected a call after MPI_Init");
  if (finalized) refuse("MPI was finalized, expected a call before MPI_Finalize");
  if (comm == MPI_COMM_NULL) refuse("got MPI_COMM_NULL, expected a communicator of the trainer's");
  int between_groups = 0;
  MPI_Comm_test_inter(comm, &between_groups);
  if (between_groups) refuse("got one between two groups, expected one of a single group");
  if (!(timeout.count() > 0)) {
    refuse("timeout is " + std::to_string(timeout.count()) + " s, expected more than 0");
  }
}

}  // namespace detail

// Collective over comm, which is of no more use after a Timeout from here.
inline Communicator mpi_communicator(
    MPI_Comm comm, std::chrono::duration<double> timeout = std::chrono::minutes(10),
    OnError on_error = {}) {
  std::shared_ptr<detail::MpiLink> link;
  try {
    detail::check_mpi(comm, timeout);
    link = detail::MpiLink::duplicate(comm, timeout);
  } catch (const Error& error) {
    on_error.fail(error.status(), std::current_exception());
    return Communicator();
  }
  return Communicator::callback(link->rank(), link->size(), detail::callbacks_over(link), on_error);
}

}  // namespace SYNCNORM_INLINE_NAMESPACE
}  // namespace syncnorm

#endif  // SYNCNORM_MPI_HPP_
