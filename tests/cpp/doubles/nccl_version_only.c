/* A libnccl that tells its version, 2.29.7 or what NCCL_DOUBLE_VERSION says, and has no more. */
#include <stdlib.h>

int ncclGetVersion(int* version) {
  const char* told = getenv("NCCL_DOUBLE_VERSION");
  *version = told == NULL ? 22907 : atoi(told);
  return 0;
}
