// What ranks over mpi.hpp meet. Every rank calls all scenarios in their order, and writes what came
// out, `scenario: outcome` in a line; test_mpi_hpp.py knows what is right.
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iomanip>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "between.hpp"
#include "world.hpp"

namespace {

// Every rank has come, so that a short deadline can be met.
Communicator impatient() {
  MPI_Barrier(MPI_COMM_WORLD);
  return mpi_communicator(MPI_COMM_WORLD, kShort);
}

void kind() {
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  write("kind", comm.rank(), comm.size(), comm.kind(), comm.device_memory());
}

// Of integers, whose sum is exact; and the bits of others.
void sums() {
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  for (const std::size_t count : {0, 1, 132, 496, 497, 2052, 30000}) {
    Values integers(count), others(count);
    for (std::size_t i = 0; i < count; ++i) {
      integers[i] = static_cast<double>((i % 1000 + 1) * static_cast<std::size_t>(rank + 1));
      others[i] = std::sin(static_cast<double>(i) + 0.1 * rank);
    }
    const Values exact = summed(comm, integers);
    std::size_t right = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto factor = static_cast<std::size_t>(size * (size + 1) / 2);
      right += exact[i] == static_cast<double>((i % 1000 + 1) * factor) ? 1 : 0;
    }
    std::uint64_t hash = 0;
    for (const double value : summed(comm, others)) {
      std::uint64_t bits = 0;
      std::memcpy(&bits, &value, sizeof(bits));
      hash = hash * 1099511628211U + bits;
    }
    write("sums", count, right, hash);
  }
}

// By parity, in the opposite order; again in groups of one; and none for the first rank.
void splits() {
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  auto half = comm.split(rank % 2, -rank);
  auto alone = half->split(half->rank());
  auto rest = comm.split(rank == 0 ? -1 : 0);
  for (auto* part : {&half, &alone, &rest}) {
    if (*part) {
      write("splits", (*part)->rank(), (*part)->size(), summed(**part, {double(rank)})[0]);
    } else {
      write("splits", "none");
    }
  }
}

// A collective and a message of the trainer's, pending while we sum; even ranks begin them before
// our first sum, odd ones after it.
void users_traffic() {
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  const Values mine(500, rank + 1.0);
  Values total(500), message(500);
  MPI_Request pending[3];
  const auto begin = [&](int parity) {
    if (rank % 2 != parity) return;
    const int left = (rank + size - 1) % size, right = (rank + 1) % size;
    MPI_Iallreduce(mine.data(), total.data(), 500, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD, pending);
    MPI_Irecv(message.data(), 500, MPI_DOUBLE, left, 0, MPI_COMM_WORLD, pending + 1);
    MPI_Isend(mine.data(), 500, MPI_DOUBLE, right, 0, MPI_COMM_WORLD, pending + 2);
  };
  begin(0);
  const double before = summed(comm, Values(500, 10.0))[499];
  begin(1);
  const double after = summed(comm, Values(500, 10.0))[499];
  MPI_Waitall(3, pending, MPI_STATUSES_IGNORE);
  write("users_traffic", before, after, total[499], message[499]);
}

// The trainer frees its communicator before; ours are freed with their handles.
void lifetime() {
  const int before = between::communicators;
  MPI_Comm own = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &own);
  auto comm = mpi_communicator(own, kAmple);
  MPI_Comm_free(&own);
  auto part = comm.split(0);
  const int made = between::communicators - before;
  comm = Communicator();
  const double total = summed(*part, {1.0})[0];
  part.reset();
  write("lifetime", made, between::communicators - before, total);
}

// Ranks with 0, 2, 4, ... samples beside one batch of all, forward and backward.
void numbers() {
  for (const std::int64_t channels : {5, 300}) {
    auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
    auto alone = mpi_communicator(MPI_COMM_SELF, kAmple);
    const std::int64_t first = rank * (rank - 1), sample = channels * 7;
    Layer mine(2 * rank, channels, static_cast<double>(first * sample));
    Layer whole(size * (size - 1), channels, 0);
    mine.train(comm, {});
    whole.train(alone, {});
    double y = 0, dx = 0;
    for (std::size_t i = 0; i < mine.y.size(); ++i) {
      const std::size_t j = static_cast<std::size_t>(first * sample) + i;
      y = std::max(y, std::abs(mine.y[i] - whole.y[j]));
      dx = std::max(dx, std::abs(mine.dx[i] - whole.dx[j]));
    }
    write("numbers", mine.y.size(), y, dx);
  }
}

// The error of a call that is another on each rank, of the next one, and that MPI is sound.
void desync(const char* scenario, const std::function<void(Communicator&)>& call) {
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  write(scenario, error_of([&] { call(comm); }));
  write(scenario, sum_error(comm));
  auto another = mpi_communicator(MPI_COMM_WORLD, kAmple);
  write(scenario, sum_error(another));
}

void ranks_in_different_calls() {
  // Within the frame, beyond it on some ranks, beyond it on all.
  for (const int count : {10 + rank, 10 + 4000 * (rank % 2), 1000 + rank}) {
    desync("other_lengths",
           [&](Communicator& comm) { summed(comm, Values(static_cast<std::size_t>(count))); });
  }
  desync("one_rank_splits", [](Communicator& comm) {
    if (rank == 0) {
      comm.split(0);
    } else {
      summed(comm, {1.0});
    }
  });
  desync("other_channels",
         [](Communicator& comm) { Layer(2, 5 + 300 * (rank % 2), 0).train(comm, {}); });
  // The same number of channels: the core tells them apart by the tag.
  desync("other_layers", [](Communicator& comm) {
    syncnorm::Options options;
    options.tag = static_cast<std::uint64_t>(rank + 1);
    Layer(2, 5, 0).train(comm, options);
  });
}

// Rank 0 comes when the others have given up: to the call they waited in, and to the next.
void absent_rank() {
  auto comm = impatient();
  if (rank == 0) MPI_Barrier(MPI_COMM_WORLD);
  write("absent_rank", sum_error(comm, 132));
  if (rank != 0) MPI_Barrier(MPI_COMM_WORLD);
  write("absent_rank", sum_error(comm, 132));
}

// The others wait for the rest of a sum, and must not tell that they are gone.
void absent_rank_of_a_long_sum() {
  auto comm = impatient();
  const int before = between::all_reductions;
  if (rank == 0) between::failing = before + 2;
  write("absent_rank_of_a_long_sum", sum_error(comm, 2052));
  write("absent_rank_of_a_long_sum", between::all_reductions - before);
  between::failing = 0;
}

void absent_when_made() {
  MPI_Comm own = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &own);
  std::string error = "absent";
  if (rank != 0) error = error_of([&] { mpi_communicator(own, kShort); });
  MPI_Barrier(MPI_COMM_WORLD);
  write("absent_when_made", error);
}

void thrown() {
  try {
    auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
    summed(comm, {1.0});
    if (rank == 1) throw std::runtime_error("the data loader failed");
    write("thrown", sum_error(comm));
    write("thrown", sum_error(comm));
  } catch (const std::runtime_error& error) {
    write("thrown", error.what());
  }
}

void aborted() {
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  if (rank == 1) {
    comm.abort("the trainer stops");
    write("aborted", sum_error(comm));
    comm = Communicator();
  } else {
    write("aborted", sum_error(comm));
  }
}

// By another thread, which does not call MPI.
void aborted_while_it_waits() {
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  if (rank == 0) {
    std::thread other([&, before = between::all_reductions.load()] {
      while (between::all_reductions == before) std::this_thread::yield();
      comm.abort("the trainer stops");
    });
    write("aborted_while_it_waits", sum_error(comm));
    other.join();
  }
  MPI_Barrier(MPI_COMM_WORLD);
  write("aborted_while_it_waits", sum_error(comm));
  if (rank != 0) write("aborted_while_it_waits", sum_error(comm));
}

void another_thread() {
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  std::string error;
  std::thread([&] { error = sum_error(comm); }).join();
  write("another_thread", error);
}

void mpi_reports_an_error() {
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  between::failing = between::all_reductions + 1;
  write("mpi_reports_an_error", sum_error(comm));
  between::failing = 0;
  write("mpi_reports_an_error", sum_error(comm));
}

void refusals() {
  const auto refused = [](MPI_Comm comm, std::chrono::duration<double> timeout) {
    syncnorm::Status status;
    const bool made{mpi_communicator(comm, timeout, status)};
    write("refusals", made ? "made" : "refused", status.message());
  };
  MPI_Comm half = MPI_COMM_NULL, between_groups = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, rank % 2, 0, &half);
  MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - rank % 2, 0, &between_groups);
  refused(MPI_COMM_NULL, kAmple);
  refused(between_groups, kAmple);
  refused(MPI_COMM_WORLD, std::chrono::seconds(0));
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  Values src{0.0}, dst{0.0};
  const std::size_t many = std::size_t{1} << 32;  // refused before they are looked at
  write("refusals", error_of([&] { comm.sum({src.data(), many}, {dst.data(), many}); }));
}

}  // namespace

// scenarios <folder> <level of threads>
int main(int argc, char** argv) {
  const std::string before = error_of([] { mpi_communicator(MPI_COMM_WORLD); });
  const bool many = argc > 2 && std::string(argv[2]) == "multiple";
  int level = 0;
  MPI_Init_thread(&argc, &argv, many ? MPI_THREAD_MULTIPLE : MPI_THREAD_FUNNELED, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  outcomes.open(std::string(argv[1]) + "/rank" + std::to_string(rank) + ".txt");
  outcomes << std::setprecision(17);
  write("before_the_beginning", before);
  for (const auto scenario :
       {kind, sums, splits, users_traffic, lifetime, numbers, ranks_in_different_calls, absent_rank,
        absent_rank_of_a_long_sum, absent_when_made, thrown, aborted, aborted_while_it_waits,
        another_thread, mpi_reports_an_error, refusals}) {
    scenario();
  }
  // Calls that nobody waits for are pending, and MPI ends all the same.
  auto comm = mpi_communicator(MPI_COMM_WORLD, kAmple);
  MPI_Finalize();
  write("after_the_end", sum_error(comm));
  write("after_the_end", error_of([] { mpi_communicator(MPI_COMM_WORLD); }));
  return 0;
}
