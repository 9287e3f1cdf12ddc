// Answers for NCCL communicators in a build without CUDA.
#include "comm/nccl.hpp"
#include "support/error.hpp"

namespace syncnorm {
namespace {

[[noreturn]] void refuse() {
  fail(SYNCNORM_UNSUPPORTED,
       "NCCL communicators sum memory of CUDA devices, but this build of syncnorm has no CUDA "
       "backend (capabilities say what it has)");
}

}  // namespace

void make_nccl_id(std::uint8_t*) { refuse(); }

std::unique_ptr<Communicator> make_nccl_communicator(const std::uint8_t*, int, int, int,
                                                     const syncnorm_nccl_options&) {
  refuse();
}

std::vector<std::unique_ptr<Communicator>> make_nccl_group(const std::vector<int>&,
                                                           const syncnorm_nccl_options&) {
  refuse();
}

std::unique_ptr<Communicator> borrow_nccl_communicator(void*, const syncnorm_nccl_options&) {
  refuse();
}

}  // namespace syncnorm
