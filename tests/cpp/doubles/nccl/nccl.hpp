// What the double needs of nccl.h (2.28), as it stands there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

extern "C" {

using ncclComm_t = struct ncclComm*;

struct ncclUniqueId {
  char internal[128];
};

enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7
};

enum ncclDataType_t { ncclFloat32 = 7, ncclFloat64 = 8 };
enum ncclRedOp_t { ncclSum = 0 };

struct ncclConfig_t {
  size_t size;
  unsigned int magic;
  unsigned int version;
  int blocking;
  int cgaClusterSize;
  int minCTAs;
  int maxCTAs;
  const char* netName;
  int splitShare;
};

#define NCCL_EXPORT __attribute__((visibility("default")))
NCCL_EXPORT ncclResult_t ncclGetVersion(int* version);
NCCL_EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId* id);
NCCL_EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int nranks, ncclUniqueId id,
                                                int rank, ncclConfig_t* config);
NCCL_EXPORT ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* newcomm,
                                       ncclConfig_t* config);
NCCL_EXPORT ncclResult_t ncclCommFinalize(ncclComm_t comm);
NCCL_EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm);
NCCL_EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm);
NCCL_EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error);
NCCL_EXPORT ncclResult_t ncclCommCount(ncclComm_t comm, int* count);
NCCL_EXPORT ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank);
NCCL_EXPORT ncclResult_t ncclCommCuDevice(ncclComm_t comm, int* device);
NCCL_EXPORT ncclResult_t ncclAllReduce(const void* sendbuff, void* recvbuff, size_t count,
                                       ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm,
                                       cudaStream_t stream);
NCCL_EXPORT ncclResult_t ncclGroupStart();
NCCL_EXPORT ncclResult_t ncclGroupEnd();
NCCL_EXPORT const char* ncclGetErrorString(ncclResult_t result);
NCCL_EXPORT const char* ncclGetLastError(ncclComm_t comm);

}  // extern "C"
