// Ranks that hold CUDA devices and sum with NCCL, on the caller's streams.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.hpp"

namespace syncnorm {

// All of these throw SYNCNORM_UNSUPPORTED in a build without CUDA and where NCCL is not found. The
// communicators keep the contract that syncnorm.h tells under "NCCL communicators".

// Writes SYNCNORM_NCCL_ID_SIZE bytes.
void make_nccl_id(std::uint8_t* id);

// id: from make_nccl_id() of one rank, or nullptr for the address in NCCL_COMM_ID.
std::unique_ptr<Communicator> make_nccl_communicator(const std::uint8_t* id, int rank, int size,
                                                     int device,
                                                     const syncnorm_nccl_options& options);

// Element i is rank i, on devices[i].
std::vector<std::unique_ptr<Communicator>> make_nccl_group(const std::vector<int>& devices,
                                                           const syncnorm_nccl_options& options);

// comm: an ncclComm_t, which stays the caller's.
std::unique_ptr<Communicator> borrow_nccl_communicator(void* comm,
                                                       const syncnorm_nccl_options& options);

}  // namespace syncnorm
