// Answers for NCCL communicators in a build without CUDA.
#include "comm/nccl.hpp"
#include "support/error.hpp"

namespace syncbn {
namespace {

[[noreturn]] void refuse() {
  fail(SYNCBN_UNSUPPORTED,
       "NCCL communicators sum memory of CUDA devices, but this build of syncbn has no CUDA "
       "backend (capabilities say what it has)");
}

}  // namespace

void make_nccl_id(std::uint8_t*) { refuse(); }

std::unique_ptr<Communicator> make_nccl_communicator(const std::uint8_t*, int, int, int,
                                                     const syncbn_nccl_options&) {
  refuse();
}

std::vector<std::unique_ptr<Communicator>> make_nccl_group(const std::vector<int>&,
                                                           const syncbn_nccl_options&) {
  refuse();
}

std::unique_ptr<Communicator> borrow_nccl_communicator(void*, const syncbn_nccl_options&) {
  refuse();
}

}  // namespace syncbn
