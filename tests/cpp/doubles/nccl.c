/* A stand-in for libnccl: what finding the library needs of it. */
int ncclGetVersion(int* version) {
  *version = 22907;
  return 0;
}
