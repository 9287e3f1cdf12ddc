#include "between.hpp"

#include <mpi.h>

namespace between {

int communicators = 0;
std::atomic<int> all_reductions{0};
std::atomic<int> failing{0};

}  // namespace between

extern "C" {

int MPI_Iallreduce(const void* sent, void* received, int count, MPI_Datatype type, MPI_Op op,
                   MPI_Comm comm, MPI_Request* request) {
  if (++between::all_reductions == between::failing) {
    MPI_Comm_call_errhandler(comm, MPI_ERR_INTERN);
    return MPI_ERR_INTERN;
  }
  return PMPI_Iallreduce(sent, received, count, type, op, comm, request);
}

int MPI_Comm_dup(MPI_Comm comm, MPI_Comm* made) {
  ++between::communicators;
  return PMPI_Comm_dup(comm, made);
}

int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm* made) {
  const int code = PMPI_Comm_split(comm, color, key, made);
  if (*made != MPI_COMM_NULL) ++between::communicators;
  return code;
}

int MPI_Comm_free(MPI_Comm* comm) {
  --between::communicators;
  return PMPI_Comm_free(comm);
}

}  // extern "C"
